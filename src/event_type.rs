//! HeyGen's event types that this version knows. Owns their names, what they tell, and where the id of their resource
//! stands; refuses to know how payloads are typed (that is `proto/hookstream/v1/payload.proto`).

/// One event type of HeyGen's.
#[derive(Debug)]
pub struct EventType {
    /// HeyGen's name.
    pub name: &'static str,
    /// What it tells.
    pub description: &'static str,
    /// The fields of `event_data` that may hold the id of the resource, most specific first. HeyGen documents `entity_id`
    /// only as "a specific resource": the order is inferred from the documented payloads.
    entity_fields: &'static [&'static str],
}

const VIDEO: &[&str] = &["video_id"];
const TRANSLATION: &[&str] = &["video_translate_id", "video_translation_id", "id"];
const SESSION: &[&str] = &["session_id", "video_id"];
const AVATAR: &[&str] = &["avatar_id", "generation_id", "group_id", "id"];
const PROOFREAD: &[&str] = &["proofread_id", "id"];
const RENDER: &[&str] = &["render_id", "video_id"];
const JOB: &[&str] = &["id"];
const PROJECT: &[&str] = &["project_id", "video_id"];
const BATCH: &[&str] = &["batch_id", "id"];

const fn event_type(
    name: &'static str,
    description: &'static str,
    entity_fields: &'static [&'static str],
) -> EventType {
    EventType {
        name,
        description,
        entity_fields,
    }
}

/// All known types, in the order of the interface's `EventType`. HeyGen adds types: an unknown one is normal.
pub const EVENT_TYPES: [EventType; 30] = [
    event_type("avatar_video.success", "an avatar video is rendered", VIDEO),
    event_type(
        "avatar_video.fail",
        "an avatar video could not be rendered",
        VIDEO,
    ),
    event_type(
        "avatar_video_gif.success",
        "the animated preview of a video is ready",
        VIDEO,
    ),
    event_type(
        "avatar_video_gif.fail",
        "the animated preview of a video failed",
        VIDEO,
    ),
    event_type(
        "avatar_video_caption.success",
        "the captions of a video are ready",
        VIDEO,
    ),
    event_type(
        "avatar_video_caption.fail",
        "the captions of a video failed",
        VIDEO,
    ),
    event_type("video_translate.success", "a video is translated", TRANSLATION),
    event_type(
        "video_translate.fail",
        "a video could not be translated",
        TRANSLATION,
    ),
    event_type(
        "video_translate.preflight.validation_failed",
        "the source of a translation was refused",
        TRANSLATION,
    ),
    event_type(
        "video_translate.preflight.download_failed",
        "the source of a translation could not be fetched",
        TRANSLATION,
    ),
    event_type(
        "video_agent.success",
        "an agent session produced its video",
        SESSION,
    ),
    event_type("video_agent.fail", "an agent session failed", SESSION),
    event_type("instant_avatar.success", "an instant avatar is ready", AVATAR),
    event_type("instant_avatar.fail", "an instant avatar failed", AVATAR),
    event_type(
        "photo_avatar_generation.success",
        "a photo avatar is generated",
        AVATAR,
    ),
    event_type(
        "photo_avatar_generation.fail",
        "a photo avatar could not be generated",
        AVATAR,
    ),
    event_type(
        "photo_avatar_train.success",
        "a photo avatar group is trained",
        AVATAR,
    ),
    event_type(
        "photo_avatar_train.fail",
        "training a photo avatar group failed",
        AVATAR,
    ),
    event_type(
        "photo_avatar_add_motion.success",
        "motion was added to a photo avatar",
        AVATAR,
    ),
    event_type(
        "photo_avatar_add_motion.fail",
        "adding motion to a photo avatar failed",
        AVATAR,
    ),
    event_type("proofread_creation.success", "a proofread is ready", PROOFREAD),
    event_type(
        "proofread_creation.fail",
        "a proofread could not be created",
        PROOFREAD,
    ),
    event_type("live_avatar.success", "a live avatar is ready", AVATAR),
    event_type("live_avatar.fail", "a live avatar failed", AVATAR),
    event_type(
        "hyperframes_video.success",
        "a hyperframes video is rendered",
        RENDER,
    ),
    event_type("hyperframes_video.fail", "a hyperframes video failed", RENDER),
    event_type("ai_clipping.success", "a long video is cut into clips", JOB),
    event_type("ai_clipping.fail", "cutting a long video into clips failed", JOB),
    event_type(
        "personalized_video",
        "one viewer's personalised video is ready",
        PROJECT,
    ),
    event_type("batch.finished", "every item of a batch has ended", BATCH),
];

/// Where the id of the resource may stand in the `event_data` of this type. A new type of a known family (the part
/// before the first dot) is read as the family is; for any other there is nothing to go by.
pub fn entity_fields(name: &str) -> &'static [&'static str] {
    EVENT_TYPES
        .iter()
        .find(|known| known.name == name)
        .or_else(|| {
            EVENT_TYPES
                .iter()
                .find(|known| family(known.name) == family(name))
        })
        .map_or(&[], |known| known.entity_fields)
}

fn family(name: &str) -> &str {
    name.split_once('.').map_or(name, |(family, _)| family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_type_of_a_known_family_is_read_as_the_family() {
        assert_eq!(entity_fields("video_translate.partial"), TRANSLATION);
        assert!(entity_fields("something.else").is_empty());
    }
}
