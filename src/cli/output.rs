//! What the client commands print. Owns JSON, tables and event lines.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use jiff::Timestamp;
use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::cloud_event;
use crate::grpc::proto::{self, Event, EventFilter};

/// This program as a person here would call it.
pub fn program() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "hookstream".into());
    let here = std::env::current_dir().unwrap_or_default();
    program
        .strip_prefix(&here)
        .unwrap_or(&program)
        .display()
        .to_string()
}

/// One line of protobuf-JSON.
pub fn json<M: Message + Name>(message: &M) -> anyhow::Result<String> {
    let descriptor = proto::pool().and_then(|pool| pool.get_message_by_name(&M::full_name()));
    let descriptor = descriptor.context("the interface's descriptors are incomplete")?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    Ok(serde_json::to_string(&message)?)
}

/// Prints one line of protobuf-JSON.
pub fn print_json<M: Message + Name>(message: &M) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{}", json(message)?)?;
    Ok(())
}

/// Whether an event is printed for a person: on a terminal, unless JSON is asked for.
pub fn for_people(json: bool) -> bool {
    !json && io::stdout().is_terminal()
}

/// How events are printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct EventForm {
    /// Print JSON also on a terminal.
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// How to print events; without it, text on a terminal and JSON otherwise.
    #[arg(long, value_name = "FORM", value_enum)]
    output: Option<Form>,
}

/// A form of printed events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Aligned lines for people.
    Text,
    /// One protobuf-JSON object a line.
    Json,
    /// One CloudEvent 1.0 a line.
    Cloudevents,
}

impl EventForm {
    /// The form that was asked for, or the one that fits where it is printed.
    pub fn chosen(self) -> Form {
        match self.output {
            Some(form) => form,
            None if for_people(self.json) => Form::Text,
            None => Form::Json,
        }
    }
}

/// Prints an event.
pub fn print_event(event: &Event, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Text => writeln!(anstream::stdout(), "{}", line(event))?,
        Form::Json => print_json(event)?,
        Form::Cloudevents => writeln!(io::stdout(), "{}", cloud_event::json(event)?)?,
    }
    Ok(())
}

/// The columns of [`line`].
pub fn header() -> String {
    let bold = Style::new().bold();
    format!(
        "{bold}{:<8}  {:<44}{:<24}{:<16}{}{bold:#}",
        "UTC", "TYPE", "ENTITY", "CALLBACK ID", "ENDPOINT"
    )
}

/// An event in one line: when, what, about what, for whom, by which endpoint.
pub fn line(event: &Event) -> String {
    let received = event.received_at.unwrap_or_default();
    let time = Timestamp::new(received.seconds, received.nanos).unwrap_or(Timestamp::UNIX_EPOCH);
    let colour = if event.type_name.ends_with("fail") || event.type_name.ends_with("failed") {
        AnsiColor::Red
    } else {
        AnsiColor::Green
    };
    let (style, dim) = (Style::new().fg_color(Some(colour.into())), Style::new().dimmed());
    let name = if event.type_name.is_empty() {
        "(no event_type)"
    } else {
        &event.type_name
    };
    format!(
        "{dim}{}{dim:#}  {style}{name:<44}{style:#}{:<24}{:<16}{}",
        time.strftime("%H:%M:%S"),
        or_dash(&event.entity_id),
        or_dash(&event.callback_id),
        event.endpoint,
    )
}

/// A dash for what is empty.
pub fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// The value of an enum as a flag would have it: without what all values start with.
pub fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase().replace('_', "-")
}

/// A filter in one line.
pub fn filter(filter: Option<&EventFilter>) -> String {
    let filter = filter.cloned().unwrap_or_default();
    let fields = [
        ("type", filter.event_types),
        ("entity", filter.entity_ids),
        ("callback id", filter.callback_ids),
        ("endpoint", filter.endpoints),
    ];
    let set = fields.into_iter().filter(|(_, values)| !values.is_empty());
    let set: Vec<_> = set
        .map(|(field, values)| format!("{field} {}", values.join(" or ")))
        .collect();
    if set.is_empty() {
        return "everything".to_owned();
    }
    set.join(", ")
}

/// A duration, to the second where it is longer than one.
pub fn duration(duration: Option<prost_types::Duration>) -> String {
    let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
    let shown = duration.map(|duration| match duration.as_secs() {
        0 => Duration::from_millis(duration.subsec_millis().into()),
        seconds => Duration::from_secs(seconds),
    });
    shown.map_or_else(
        || "-".to_owned(),
        |shown| humantime::format_duration(shown).to_string(),
    )
}

/// A time to the second.
pub fn time(time: Option<prost_types::Timestamp>) -> String {
    let time = time.and_then(|time| Timestamp::new(time.seconds, 0).ok());
    time.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

/// Prints rows under a header.
pub fn print_table<R: IntoIterator<Item = String>>(
    header: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    writeln!(anstream::stdout(), "{}", table.trim_fmt())?;
    Ok(())
}

/// Whether nobody reads the output any more. A terminal or file never says so.
pub fn is_unread() -> bool {
    let stdout = io::stdout();
    let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
    // What cannot be asked is taken to be read.
    let answered = poll(&mut asked, Some(&Timespec::default()));
    answered.is_ok()
        && asked
            .iter()
            .any(|stdout| stdout.revents().contains(PollFlags::ERR))
}

/// Whether an error is that nobody reads the output any more, which is no failure (`hookstream tail | head`).
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
