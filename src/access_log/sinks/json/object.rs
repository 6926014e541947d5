//! A JSON object under construction.

use std::{net::IpAddr, ops::Range, sync::OnceLock, time::Duration};

use super::{
    time::push_rfc3339,
    value::{push_addr, push_bool, push_int, push_secs},
};
use crate::{
    access_log::{
        emit::level::Level,
        record::{
            redact::{SHORT_BYTES_MAX, capped, hide_keys},
            schema::{EVENT_NAME, Field, Names, SCHEMA_VERSION},
        },
    },
    core::{json, time::Timestamp},
};

/// A JSON object that is being written.
pub(super) struct Object<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) names: Names,
}

impl Object<'_> {
    /// Writes what every line begins with.
    pub(super) fn preamble(&mut self, at: Timestamp, level: Level, name: &'static str) {
        self.name(Field::Timestamp);
        push_rfc3339(self.out, at);
        if name == EVENT_NAME {
            let kind = access_record(self.names, level);
            return self.out.extend_from_slice(kind);
        }
        self.kind(level, name);
    }

    /// Writes what kind of a line it is.
    pub(super) fn kind(&mut self, level: Level, name: &'static str) {
        self.word(Field::SeverityText, level.as_str());
        self.int(Field::SeverityNumber, level.severity_number());
        self.word(Field::EventName, name);
        self.int(Field::SchemaVersion, SCHEMA_VERSION);
    }

    pub(super) fn text(&mut self, field: Field, text: &str) {
        self.name(field);
        json::push_string(self.out, text);
    }

    pub(super) fn some_text(&mut self, field: Field, text: Option<&str>) {
        if let Some(text) = text {
            self.text(field, text);
        }
    }

    /// Writes an address, which needs no escape, and returns where it stands.
    pub(super) fn addr(&mut self, field: Field, addr: IpAddr) -> Range<usize> {
        self.name(field);
        let from = self.out.len();
        self.out.push(b'"');
        push_addr(self.out, addr);
        self.out.push(b'"');
        from..self.out.len()
    }

    pub(super) fn short_text(&mut self, field: Field, text: Option<&str>) {
        let text = text.map(hide_keys);
        let text = text.as_deref().map(|text| capped(text, SHORT_BYTES_MAX));
        self.some_text(field, text.as_deref());
    }

    pub(super) fn int(&mut self, field: Field, int: impl itoa::Integer) {
        self.name(field);
        push_int(self.out, int);
    }

    pub(super) fn bool(&mut self, field: Field, bool: bool) {
        self.name(field);
        push_bool(self.out, bool);
    }

    pub(super) fn secs(&mut self, field: Field, duration: Duration) {
        self.name(field);
        push_secs(self.out, duration);
    }

    /// Our own names need no escape.
    pub(super) fn name(&mut self, field: Field) {
        let member = self.names.member(field).as_bytes();
        let first = self.out.last() == Some(&b'{');
        self.out.extend_from_slice(&member[usize::from(first)..]);
    }

    /// Neither do our own words.
    pub(super) fn word(&mut self, field: Field, word: &'static str) {
        self.plain(field, word);
    }

    /// Writes a text that was found to need no escape.
    pub(super) fn plain(&mut self, field: Field, word: &str) {
        self.plain_bytes(field, word.as_bytes());
    }

    /// Writes bytes of ASCII that were found to need no escape.
    pub(super) fn plain_bytes(&mut self, field: Field, word: &[u8]) {
        debug_assert!(
            word.iter()
                .all(|byte| byte.is_ascii_graphic() && *byte != b'"')
        );
        self.name(field);
        self.out.push(b'"');
        self.out.extend_from_slice(word);
        self.out.push(b'"');
    }
}

/// Returns what kind of a line the record of a request of this level is: made once, and copied then.
fn access_record(names: Names, level: Level) -> &'static [u8] {
    static KINDS: [[OnceLock<Vec<u8>>; 4]; 3] = [const { [const { OnceLock::new() }; 4] }; 3];

    KINDS[names as usize][level as usize].get_or_init(|| {
        let mut out = Vec::new();
        let mut object = Object {
            out: &mut out,
            names,
        };
        object.kind(level, EVENT_NAME);
        out
    })
}
