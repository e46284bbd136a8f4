//! The written contract of every JSON output, `docs/json.md`, as a check of what the program prints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::Value;

/// A row of a table.
struct Field {
    /// Such as `[string]` or `object or null`.
    form: String,
    /// Whether it is in every object of its kind.
    always: bool,
}

type Table = BTreeMap<String, Field>;

/// Tables by the words of the heading above them: `status`, or `status.volumes` for the value of a field.
static TABLES: LazyLock<BTreeMap<String, Table>> = LazyLock::new(|| read(include_str!("../../../docs/json.md")));

/// The tables that an object was checked against.
static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn read(page: &str) -> BTreeMap<String, Table> {
    let (mut tables, mut heading) = (BTreeMap::new(), String::new());
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("##") {
            // "### `status`: `volumes`" and "## `ready` of `watch`".
            heading = title.trim_start_matches('#').trim().replace("`: `", ".").replace('`', "");
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", name, form, _, when, _, ""] = cells[..]
            && let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'))
        {
            let table: &mut Table = tables.entry(heading.clone()).or_default();
            let field = Field { form: form.to_owned(), always: when.is_empty() };
            assert!(table.insert(name.to_owned(), field).is_none(), "{heading} has `{name}` twice");
        }
    }
    tables
}

/// Checks a value against the form on the page.
fn is_of(value: &Value, form: &str) -> bool {
    if let Some(form) = form.strip_suffix(" or null") {
        return value.is_null() || is_of(value, form);
    }
    if let Some(inner) = form.strip_prefix('[').and_then(|form| form.strip_suffix(']')) {
        return value.as_array().is_some_and(|values| values.iter().all(|value| is_of(value, inner)));
    }
    match form {
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        _ => false,
    }
}

/// The table for the value of a field; a table that two kinds of object share is listed under the first.
fn inside(table: &str, field: &str) -> Option<&'static str> {
    let name = match (table, field) {
        ("acknowledge", "write_back") => "status.write_back".to_owned(),
        ("status.volumes", "write_back" | "flush_histogram") => format!("status.{field}"),
        ("status.volumes", "pause_histogram") => "status.flush_histogram".to_owned(),
        ("doctor", "tracking") => "status.tracking".to_owned(),
        ("doctor.directory", "findings") => "doctor.findings".to_owned(),
        ("doctor.directory", "file_system") => "doctor.file_systems".to_owned(),
        (_, "failure") => "error".to_owned(),
        _ => format!("{table}.{field}"),
    };
    TABLES.get_key_value(&name).map(|(name, _)| name.as_str())
}

fn check(table: &str, object: &Value) {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(table.to_owned());
    let fields = TABLES.get(table).unwrap_or_else(|| panic!("docs/json.md has no table for `{table}`: {object}"));
    let object = object.as_object().expect("an object");
    for (name, value) in object {
        let field = fields.get(name).unwrap_or_else(|| panic!("`{name}` of `{table}` is not in docs/json.md: {value}"));
        assert!(is_of(value, &field.form), "`{name}` of `{table}` is no {}: {value}", field.form);
        if let Some(inner) = inside(table, name) {
            let values = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            values.iter().filter(|value| value.is_object()).for_each(|value| check(inner, value));
        }
    }
    for (name, _) in fields.iter().filter(|(_, field)| field.always) {
        assert!(object.contains_key(name), "`{table}` has no `{name}`: {object:?}");
    }
}

/// Checks a line of output against the page.
pub(super) fn hold(line: &Value) {
    let kind = line["type"].as_str().expect("a type");
    check(if kind == "ready" && line.get("inodes").is_some() { "ready of watch" } else { kind }, line);
}

/// Tables that nothing was checked against: on a page about something else, all of them.
pub(super) fn unseen() -> Vec<&'static str> {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    TABLES.keys().map(String::as_str).filter(|table| !seen.contains(*table)).collect()
}

#[test]
fn a_page_and_an_output_that_differ_are_noticed() {
    let hold = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        std::panic::catch_unwind(|| hold(&line)).is_ok()
    };
    assert!(hold(r#"{"type":"version","version":"0.1.0"}"#));
    assert!(!hold(r#"{"type":"version","version":"0.1.0","more":1}"#), "a field that no row has");
    assert!(!hold(r#"{"type":"version"}"#), "a row that the output lacks");
    assert!(!hold(r#"{"type":"version","version":1}"#), "another form");
    assert!(!hold(r#"{"type":"none"}"#), "no table");
    let failed = r#"{"type":"sync","waited":true,"failure":{"code":1,"message":"m","other":1}}"#;
    assert!(!hold(failed), "in what lies inside");
}
