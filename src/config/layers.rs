//! Where a setting's value comes from. Owns the order of flags, environment, file and defaults; refuses to know what a value
//! means.

use std::fs;

use clap::{ArgMatches, parser::ValueSource};

use super::{ConfigError, settings::SETTINGS};

/// A value with the place it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced {
    /// The setting's name.
    pub key: &'static str,
    /// The value as text; `None` where neither anybody nor a default sets it.
    pub value: Option<String>,
    /// Where it was set, as a person would say it.
    pub source: String,
}

/// Every setting's value and where it came from, not yet read.
pub fn layers(matches: &ArgMatches) -> Result<Vec<Sourced>, ConfigError> {
    let mut problems = Vec::new();
    let path = matches.get_one::<String>("config");
    let file = path.map(|path| (path, read_file(path, &mut problems)));
    let layered = SETTINGS
        .iter()
        .map(|setting| {
            let given = matches.get_one::<String>(setting.key).cloned();
            let in_file = || {
                let (path, table) = file.as_ref()?;
                in_file(table, path, setting.key)
            };
            let (value, source) = match (given, matches.value_source(setting.key)) {
                (Some(value), Some(ValueSource::EnvVariable)) => (Some(value), setting.variable()),
                (Some(value), _) => (Some(value), format!("--{}", setting.key)),
                (None, _) => match in_file() {
                    Some((value, source)) => (Some(value), source),
                    None => (setting.default.map(str::to_owned), "default".to_owned()),
                },
            };
            Sourced {
                key: setting.key,
                value,
                source,
            }
        })
        .collect();
    if problems.is_empty() {
        Ok(layered)
    } else {
        Err(ConfigError(problems))
    }
}

/// The defaults with these settings changed.
pub fn defaults_with(changes: &[(&str, &str)]) -> Result<Vec<Sourced>, ConfigError> {
    let unknown = changes
        .iter()
        .filter(|(key, _)| SETTINGS.iter().all(|setting| setting.key != *key));
    let problems: Vec<_> = unknown
        .map(|(key, _)| format!("`{key}` is not a setting"))
        .collect();
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    Ok(defaults_but(|key| {
        let changed = changes.iter().find(|(changed, _)| *changed == key);
        changed.map(|(_, value)| ((*value).to_owned(), key.to_owned()))
    }))
}

/// The defaults with those settings of a file changed that `count`.
pub fn defaults_with_file(path: &str, count: impl Fn(&str) -> bool) -> Result<Vec<Sourced>, ConfigError> {
    let mut problems = Vec::new();
    let table = read_file(path, &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    Ok(defaults_but(|key| {
        in_file(&table, path, key).filter(|_| count(key))
    }))
}

/// The defaults, but for what is changed: to which value, and where.
fn defaults_but(changed: impl Fn(&'static str) -> Option<(String, String)>) -> Vec<Sourced> {
    let layered = SETTINGS.iter().map(|setting| {
        let (value, source) = changed(setting.key).unzip();
        Sourced {
            key: setting.key,
            value: value.or(setting.default.map(str::to_owned)),
            source: source.unwrap_or_else(|| "default".to_owned()),
        }
    });
    layered.collect()
}

/// A setting's value in a file, and where that is.
fn in_file(table: &toml::Table, path: &str, key: &str) -> Option<(String, String)> {
    let value = match table.get(key)? {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some((value, format!("{key} in {path}")))
}

fn read_file(path: &str, problems: &mut Vec<String>) -> toml::Table {
    let text = fs::read_to_string(path).unwrap_or_else(|error| {
        problems.push(format!("{path}: cannot be read: {error}"));
        String::new()
    });
    let table: toml::Table = text.parse().unwrap_or_else(|error: toml::de::Error| {
        problems.push(format!("{path}: is not TOML: {}", error.message()));
        toml::Table::new()
    });
    for key in table
        .keys()
        .filter(|key| SETTINGS.iter().all(|setting| setting.key != key.as_str()))
    {
        let known: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        let known = known.join(", ");
        problems.push(format!("{path}: `{key}` is not a setting; there are {known}"));
    }
    table
}
