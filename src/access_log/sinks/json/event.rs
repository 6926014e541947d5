//! Encoding of audit events, notices and losses as JSON lines.

use std::net::IpAddr;

use super::object::Object;
use crate::{
    access_log::{
        emit::level::LogLevel,
        record::{
            redact::{TEXT_BYTES_MAX, capped},
            schema::{Field, FieldNaming, LOSS_EVENT_NAME, NOTICE_EVENT_NAME},
        },
    },
    core::{
        audit::{AuditEvent, KeyAction},
        error::StoreErrorKind,
        time::Timestamp,
    },
};

/// Returns the line that reports lost records, without a line feed.
pub(crate) fn loss(names: FieldNaming, at: Timestamp, reason: &str, lost: u64) -> Vec<u8> {
    event(names, at, LogLevel::Warn, LOSS_EVENT_NAME, |object| {
        object.text(Field::ErrorType, reason);
        object.int(Field::Lost, lost);
    })
}

/// Returns the line of a notice, without a line feed.
pub(crate) fn notice(names: FieldNaming, at: Timestamp, message: &str) -> Vec<u8> {
    event(names, at, LogLevel::Warn, NOTICE_EVENT_NAME, |object| {
        object.text(Field::AuditMessage, &capped(message, TEXT_BYTES_MAX));
    })
}

/// Returns the line of an audit event, without a line feed.
pub(crate) fn audit(names: FieldNaming, at: Timestamp, audited: &AuditEvent) -> Vec<u8> {
    let level = audit_level(audited);
    event(names, at, level, audited.name(), |object| {
        object.audit(audited)
    })
}

fn audit_level(event: &AuditEvent) -> LogLevel {
    match event {
        AuditEvent::KeyChanged { action, .. } => key_change_level(*action),
        AuditEvent::KeyRotated { .. }
        | AuditEvent::KeysPurged { .. }
        | AuditEvent::LimitExceededInShadow { .. }
        | AuditEvent::StoreUp { .. } => LogLevel::Info,
        AuditEvent::AuthDenied { .. }
        | AuditEvent::BanRaised { .. }
        | AuditEvent::CacheRefreshFailed { .. }
        | AuditEvent::ConfigWarning { .. } => LogLevel::Warn,
        AuditEvent::KeyRecordForged { .. }
        | AuditEvent::StoreDown { .. }
        | AuditEvent::StoreRejected { .. } => LogLevel::Error,
    }
}

fn key_change_level(action: KeyAction) -> LogLevel {
    match action {
        KeyAction::Created
        | KeyAction::Imported
        | KeyAction::Updated
        | KeyAction::Disabled
        | KeyAction::Enabled
        | KeyAction::Expired
        | KeyAction::Revoked => LogLevel::Info,
        KeyAction::Leaked => LogLevel::Warn,
    }
}

/// Returns the line of an event other than a request.
fn event(
    names: FieldNaming,
    at: Timestamp,
    level: LogLevel,
    name: &'static str,
    rest: impl FnOnce(&mut Object<'_>),
) -> Vec<u8> {
    let mut out = vec![b'{'];
    let mut object = Object {
        out: &mut out,
        names,
    };
    object.preamble(at, level, name);
    rest(&mut object);
    out.push(b'}');
    out
}

impl Object<'_> {
    fn audit(&mut self, event: &AuditEvent) {
        match event {
            AuditEvent::KeyChanged { key_id, by, .. } => {
                self.short_text(Field::AuthKeyId, Some(key_id));
                self.short_text(Field::AuditBy, by.as_deref());
            }
            AuditEvent::KeysPurged { count, by } => {
                self.int(Field::AuditCount, *count);
                self.short_text(Field::AuditBy, by.as_deref());
            }
            AuditEvent::KeyRecordForged { key_id } => {
                self.short_text(Field::AuthKeyId, Some(key_id));
            }
            AuditEvent::KeyRotated {
                key_id,
                successor,
                by,
            } => {
                self.short_text(Field::AuthKeyId, Some(key_id));
                self.short_text(Field::AuditSuccessor, Some(successor));
                self.short_text(Field::AuditBy, by.as_deref());
            }
            AuditEvent::AuthDenied {
                reason,
                key_id,
                client,
                request_id,
            } => {
                self.denied_request(request_id, *client);
                self.word(Field::AuthReason, reason.as_str());
                self.short_text(Field::AuthKeyId, key_id.as_deref());
            }
            AuditEvent::BanRaised { subject, policy } => {
                self.short_text(Field::AuditSubject, Some(subject));
                self.short_text(Field::RateLimitPolicy, Some(policy));
            }
            AuditEvent::LimitExceededInShadow { policy, key_id } => {
                self.short_text(Field::RateLimitPolicy, Some(policy));
                self.short_text(Field::AuthKeyId, key_id.as_deref());
            }
            AuditEvent::StoreDown { store, kind } => self.store_failure(store, None, *kind),
            AuditEvent::StoreUp { store } => self.short_text(Field::AuditStore, Some(store)),
            AuditEvent::StoreRejected { store, kind, cause } => {
                self.store_failure(store, Some(cause), *kind);
            }
            AuditEvent::CacheRefreshFailed { cause } => {
                self.short_text(Field::AuditCause, Some(cause));
            }
            AuditEvent::ConfigWarning { message } => {
                self.text(Field::AuditMessage, &capped(message, TEXT_BYTES_MAX));
            }
        }
    }

    fn denied_request(&mut self, request_id: &str, client: Option<IpAddr>) {
        let request_id = Some(request_id).filter(|name| !name.is_empty());
        self.short_text(Field::RequestId, request_id);
        if let Some(client) = client {
            let _ = self.addr(Field::ClientAddress, client);
        }
    }

    fn store_failure(&mut self, store: &str, cause: Option<&str>, kind: StoreErrorKind) {
        self.short_text(Field::AuditStore, Some(store));
        if let Some(cause) = cause {
            self.text(Field::AuditCause, &capped(cause, TEXT_BYTES_MAX));
        }
        self.text(Field::AuditMessage, &kind.to_string());
    }
}
