//! Lua scripts, which are sent by digest. A script is sent in full only to a server that does not
//! have it.

use std::sync::atomic::{AtomicU64, Ordering};

use redis::{Cmd, ToRedisArgs, Value};

use super::error::Fault;

/// A script that a server runs atomically.
///
/// The script's first argument is a number. The script's reply is an array that starts with the
/// same number, so a reply cannot be mistaken for the reply to another call.
#[derive(Debug)]
pub(crate) struct Script {
    source: String,
    digest: String,
}

/// A script call, which consists of the keys and the arguments that [`arg`](Self::arg) adds.
pub(crate) struct ScriptCall {
    script: &'static Script,
    by_digest: Cmd,
    number: u64,
}

static NUMBER: AtomicU64 = AtomicU64::new(1);

impl Script {
    /// Creates a script by joining its parts.
    pub(crate) fn new(parts: &[&str]) -> Self {
        let source = parts.join("\n");
        let digest = redis::Script::new(&source).get_hash().to_owned();
        Self { source, digest }
    }

    /// Creates a call. In a Cluster, all keys must be in one slot.
    pub(crate) fn call(&'static self, keys: &[&[u8]]) -> ScriptCall {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut by_digest = Cmd::new();
        by_digest.arg("EVALSHA").arg(&self.digest).arg(keys.len());
        for key in keys {
            by_digest.arg(*key);
        }
        by_digest.arg(number);
        ScriptCall {
            script: self,
            by_digest,
            number,
        }
    }
}

impl ScriptCall {
    /// Adds an argument. The first added argument is `ARGV[2]`.
    pub(crate) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        self.by_digest.arg(arg);
        self
    }

    pub(super) fn by_digest(&self) -> &Cmd {
        &self.by_digest
    }

    /// Returns the same call with the script's source, which the server then stores.
    pub(crate) fn whole(&self) -> Cmd {
        let mut whole = Cmd::new();
        whole.arg("EVAL").arg(&self.script.source);
        for arg in self.by_digest.args_iter().skip(2) {
            match arg {
                redis::Arg::Simple(bytes) => whole.arg(bytes),
                redis::Arg::Cursor => whole.arg(0),
                _ => &mut whole,
            };
        }
        whole
    }

    /// Returns the values that follow the number in the reply.
    pub(crate) fn open(&self, reply: Value) -> Result<Vec<Value>, Fault> {
        let Value::Array(mut values) = reply else {
            return Err(Fault::corrupt("the script's reply is not an array"));
        };
        let echoed = match values.first() {
            Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).unwrap_or_default(),
            Some(_) | None => "",
        };
        if echoed.parse() != Ok(self.number) {
            return Err(Fault::corrupt("the reply belongs to another call"));
        }
        values.remove(0);
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(&["return", "{ARGV[1]}"]));

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn eval_and_evalsha_send_the_same_arguments() {
        let mut call = SCRIPT.call(&[b"a{b}"]);
        call.arg(7).arg("x");
        let packed = |cmd: &Cmd| String::from_utf8(cmd.get_packed_command()).unwrap();
        let (short, whole) = (packed(call.by_digest()), packed(&call.whole()));
        assert!(short.contains("EVALSHA") && whole.contains("EVAL\r\n$16\r\nreturn\n{ARGV[1]}"));
        let after = |text: &str| text.split_once("$1\r\n1\r\n").unwrap().1.to_owned();
        assert_eq!(after(&short), after(&whole));
    }

    #[test]
    fn rejects_reply_to_another_call() {
        let (one, other) = (SCRIPT.call(&[]), SCRIPT.call(&[]));
        let reply = Value::Array(vec![bulk(&one.number.to_string()), Value::Int(7)]);
        assert_eq!(one.open(reply.clone()).unwrap(), [Value::Int(7)]);
        assert!(other.open(reply).is_err());
        assert!(one.open(Value::Array(Vec::new())).is_err());
        assert!(one.open(Value::Int(1)).is_err());
    }
}
