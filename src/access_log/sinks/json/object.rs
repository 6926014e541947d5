//! A JSON object that is being written.

use std::{net::IpAddr, ops::Range, sync::OnceLock, time::Duration};

use super::{
    time::push_rfc3339,
    value::{push_addr, push_bool, push_int, push_secs},
};
use crate::{
    access_log::{
        emit::level::LogLevel,
        record::{
            redact::{SHORT_BYTES_MAX, capped, hide_keys},
            schema::{EVENT_NAME, Field, FieldNaming, SCHEMA_VERSION},
        },
    },
    core::{json, time::Timestamp},
};

/// The members that identify a request record, by level.
static ACCESS_RECORD: FixedMembers<4> = FixedMembers::new();

/// An incomplete JSON object and the naming of its fields.
pub(super) struct Object<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) names: FieldNaming,
}

impl Object<'_> {
    /// Writes the fields at the start of every line.
    pub(super) fn preamble(&mut self, at: Timestamp, level: LogLevel, name: &'static str) {
        // The first member of the object: no comma.
        let member = self.names.member(Field::Timestamp);
        self.out.extend_from_slice(&member.as_bytes()[1..]);
        push_rfc3339(self.out, at);
        if name == EVENT_NAME {
            return ACCESS_RECORD.push(self, level as usize, |object| object.kind(level, name));
        }
        self.kind(level, name);
    }

    /// Writes the level, the event name and the schema version.
    pub(super) fn kind(&mut self, level: LogLevel, name: &'static str) {
        self.word(Field::SeverityText, level.as_str());
        self.int(Field::SeverityNumber, level.severity_number());
        self.word(Field::EventName, name);
        self.int(Field::SchemaVersion, SCHEMA_VERSION);
    }

    pub(super) fn text(&mut self, field: Field, text: &str) {
        self.text_name(field);
        json::push_escaped(self.out, text);
        self.out.push(b'"');
    }

    pub(super) fn some_text(&mut self, field: Field, text: Option<&str>) {
        if let Some(text) = text {
            self.text(field, text);
        }
    }

    /// Writes an address, which needs no escaping, and returns its range in the output.
    pub(super) fn addr(&mut self, field: Field, addr: IpAddr) -> Range<usize> {
        self.name(field);
        let from = self.out.len();
        self.out.push(b'"');
        push_addr(self.out, addr);
        self.out.push(b'"');
        from..self.out.len()
    }

    pub(super) fn short_text(&mut self, field: Field, text: Option<&str>) {
        if let Some(text) = text {
            self.text(field, &capped(&hide_keys(text), SHORT_BYTES_MAX));
        }
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

    /// Writes a field name, which needs no escaping.
    #[inline]
    pub(super) fn name(&mut self, field: Field) {
        let member = self.names.member(field);
        self.out.extend_from_slice(member.as_bytes());
    }

    /// Writes a field name and the opening quote of a string value.
    #[inline]
    fn text_name(&mut self, field: Field) {
        let member = self.names.text_member(field);
        self.out.extend_from_slice(member.as_bytes());
    }

    /// Writes a constant, which needs no escaping.
    pub(super) fn word(&mut self, field: Field, word: &'static str) {
        self.plain(field, word);
    }

    /// Writes text that needs no escaping.
    pub(super) fn plain(&mut self, field: Field, word: &str) {
        self.plain_bytes(field, word.as_bytes());
    }

    /// Writes ASCII bytes that need no escaping.
    pub(super) fn plain_bytes(&mut self, field: Field, word: &[u8]) {
        debug_assert!(
            word.iter()
                .all(|byte| byte.is_ascii_graphic() && *byte != b'"')
        );
        self.text_name(field);
        self.out.extend_from_slice(word);
        self.out.push(b'"');
    }
}

/// The members for each of `N` cases in each naming convention. They are rendered once and then
/// copied.
pub(super) struct FixedMembers<const N: usize>([[OnceLock<Vec<u8>>; N]; 3]);

impl<const N: usize> FixedMembers<N> {
    pub(super) const fn new() -> Self {
        Self([const { [const { OnceLock::new() }; N] }; 3])
    }

    /// Appends the members of a case to an object. They are rendered for the first object.
    #[inline]
    pub(super) fn push(
        &self,
        object: &mut Object<'_>,
        case: usize,
        render: impl FnOnce(&mut Object<'_>),
    ) {
        let names = object.names;
        let members = self.0[names as usize][case].get_or_init(|| {
            let mut out = Vec::new();
            let mut object = Object {
                out: &mut out,
                names,
            };
            render(&mut object);
            out
        });
        object.out.extend_from_slice(members);
    }
}
