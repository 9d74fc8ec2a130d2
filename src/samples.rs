//! One body of every event type, as HeyGen would send it. Owns the samples that `dev` and `deliver` send; refuses to sign
//! or send them.

use serde_json::{Value, json};

use crate::event_type::EVENT_TYPES;

/// `event_data` of a sample; `number` makes its ids differ from those of other samples.
pub fn event_data(event_type: &str, number: u64) -> Value {
    let link =
        |what: &str| format!("https://files.heygen.ai/{what}/{number}?Expires=1790000000&Signature=sample");
    let id = |kind: &str| format!("{kind}_{number:016x}");
    let callback_id = format!("order_{}", number % 100_000);
    let (family, outcome) = event_type.split_once('.').unwrap_or((event_type, ""));
    let mut data = match (family, outcome) {
        ("avatar_video" | "avatar_video_gif", "success") => json!({
            "video_id": id("vid"),
            "url": link("video"),
            "gif_download_url": link("gif"),
            "video_page_url": format!("https://app.heygen.com/videos/{}", id("vid")),
            "video_share_page_url": null,
            "folder_id": "",
            "callback_url": null,
        }),
        ("avatar_video" | "avatar_video_gif", _) => {
            json!({"video_id": id("vid"), "msg": "rendering timed out"})
        }
        ("avatar_video_caption", "success") => json!({"video_id": id("vid"), "caption_url": link("caption")}),
        ("avatar_video_caption", _) => json!({"video_id": id("vid"), "msg": "no speech was found"}),
        ("video_translate", "success") => {
            json!({"video_translate_id": id("trl"), "url": link("video"), "output_language": "Japanese"})
        }
        ("video_translate", _) => {
            json!({"video_translate_id": id("trl"), "message": "the source is too long", "output_language": "Japanese"})
        }
        ("video_agent", "success") => {
            json!({"session_id": id("ses"), "video_id": id("vid"), "video_url": link("video")})
        }
        ("video_agent", _) => json!({"session_id": id("ses"), "message": "the session was cancelled"}),
        ("proofread_creation", _) => json!({"proofread_id": id("prf")}),
        ("hyperframes_video", "success") => {
            json!({"render_id": id("rnd"), "video_id": id("vid"), "video_url": link("video")})
        }
        ("hyperframes_video", _) => {
            json!({"render_id": id("rnd"), "failure_message": "a frame could not be drawn"})
        }
        ("ai_clipping", "success") => json!({
            "id": id("clp"),
            "status": "completed",
            "progress": 100,
            "input_language": "English",
            "source_duration": 1820.5,
            "clips": [{
                "id": id("cut"),
                "status": "completed",
                "title": "The moment it worked",
                "duration_seconds": 41.2,
                "aspect_ratio": "9:16",
                "video_url": link("clip"),
                "virality_score": 0.87,
            }],
        }),
        ("ai_clipping", _) => {
            json!({"id": id("clp"), "status": "failed", "failure_message": "no speech was found"})
        }
        ("personalized_video", _) => json!({
            "project_id": id("prj"),
            "video_id": id("vid"),
            "video_url": link("video"),
            "landing_page_url": "https://example.com/hello",
            "gif_url": link("gif"),
            "gif_html": "<img alt=\"Hello\">",
            "contact_info": {"first_name": "Sam", "email": "sam@example.com"},
        }),
        ("batch", _) => json!({
            "batch_id": id("bat"),
            "status": "finished",
            "total_items": 3,
            "counts_by_status": {"completed": 2, "failed": 1},
        }),
        (_, "fail") => json!({"avatar_id": id("ava"), "message": "the footage is too dark"}),
        _ => json!({"avatar_id": id("ava")}),
    };
    if family != "personalized_video"
        && let Some(fields) = data.as_object_mut()
    {
        fields.insert("callback_id".to_owned(), Value::String(callback_id));
    }
    data
}

/// The body around some `event_data`.
pub fn body_of(event_type: &str, event_data: &Value) -> String {
    json!({"event_type": event_type, "event_data": event_data}).to_string()
}

/// A whole sample.
pub fn body(event_type: &str, number: u64) -> String {
    body_of(event_type, &event_data(event_type, number))
}

/// A sample of every known type.
pub fn all(number: u64) -> impl Iterator<Item = (&'static str, String)> {
    EVENT_TYPES
        .iter()
        .map(move |known| (known.name, body(known.name, number)))
}
