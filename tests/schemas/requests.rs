//! Requests held against the schemas of HeyGen's API beside this file. Owns the checking; refuses to know who sends the
//! requests and who answers them. Unit tests and integration tests take it in by its path.

use std::sync::LazyLock;

use http::{HeaderMap, Method, Uri};
use jsonschema::Validator;
use serde_json::{Map, Value, json};

const SCHEMAS: &str = include_str!("heygen-v3.json");

static CALLS: LazyLock<Vec<(String, Validator)>> = LazyLock::new(|| {
    let schemas: Value = serde_json::from_str(SCHEMAS).unwrap();
    let references = schemas["oneOf"].as_array().unwrap().iter();
    let references = references.map(|one| one["$ref"].as_str().unwrap().to_owned());
    references
        .map(|reference| {
            let schema = json!({"$schema": schemas["$schema"], "$defs": schemas["$defs"], "$ref": reference});
            let call = reference.rsplit('/').next().unwrap().to_owned();
            (call, jsonschema::validator_for(&schema).unwrap())
        })
        .collect()
});

/// Which of HeyGen's calls a request is, such as `create_endpoint`; else what speaks against the likeliest one.
pub fn call_of(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<String, String> {
    let request = instance(method, uri, headers, body)?;
    let mut against: Vec<(&str, Vec<String>)> = Vec::new();
    for (call, schema) in CALLS.iter() {
        let errors: Vec<_> = schema
            .iter_errors(&request)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        if errors.is_empty() {
            return Ok(call.clone());
        }
        against.push((call, errors));
    }
    let elsewhere = |errors: &[String]| {
        let starts = ["/method", "/path"].map(|start| errors.iter().any(|error| error.starts_with(start)));
        starts.iter().filter(|start| **start).count()
    };
    let likeliest = against
        .into_iter()
        .min_by_key(|(_, errors)| (elsewhere(errors), errors.len()));
    let (call, errors) = likeliest.unwrap();
    Err(format!("{method} {uri} is no {call}: {}", errors.join("; ")))
}

fn instance(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Value, String> {
    let url: reqwest::Url = format!("http://heygen{uri}").parse().unwrap();
    let mut query = Map::new();
    for (name, value) in url.query_pairs() {
        if query.insert(name.to_string(), json!(value)).is_some() {
            return Err(format!("{uri} names {name} twice"));
        }
    }
    let mut fields = Map::new();
    for (name, value) in headers {
        let value = value.to_str().map_err(|_| format!("{name} is not ASCII"))?;
        if fields.insert(name.to_string(), json!(value)).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    let mut request =
        json!({"method": method.as_str(), "path": uri.path(), "query": query, "headers": fields});
    if !body.is_empty() {
        let body = serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
        request["body"] = body;
    }
    Ok(request)
}
