//! Reads the server name out of a TLS ClientHello, and nothing else. A gateway routes by it without decrypting anything.
//!
//! The bytes come from anybody, so that every length is checked before it is believed. (RFC 8446 §4.1.2 and §5.1, RFC 6066 §3.)

use crate::limits::CLIENT_HELLO_BYTES_MAX;

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// The name that the client asked for, lower case.
    Name(String),
    /// Read on.
    Incomplete,
    /// Not a ClientHello, or one without a name, or one that is too long: close the connection.
    Refused(&'static str),
}

/// Parses the beginning of a TLS connection. Never reads past `bytes`, never looks at more than [`CLIENT_HELLO_BYTES_MAX`].
pub fn parse(bytes: &[u8]) -> Hello {
    match hello_message(bytes).and_then(|message| name_of(&message)) {
        Ok(name) => Hello::Name(name),
        Err(Stop::Incomplete) if bytes.len() >= CLIENT_HELLO_BYTES_MAX => Hello::Refused("the ClientHello is too long"),
        Err(Stop::Incomplete) => Hello::Incomplete,
        Err(Stop::Refused(why)) => Hello::Refused(why),
    }
}

#[derive(Debug)]
enum Stop {
    Incomplete,
    Refused(&'static str),
}

const RECORD_HANDSHAKE: u8 = 22;
const RECORD_BYTES_MAX: usize = 1 << 14;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;
/// Longest DNS name (RFC 1035 §3.1).
const NAME_BYTES_MAX: usize = 253;

/// The ClientHello's body, put together from as many records as it was cut into.
fn hello_message(bytes: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(body) = whole_message(&message)? {
            return Ok(body.to_vec());
        }
        let (&kind, after) = rest.split_first().ok_or(Stop::Incomplete)?;
        if kind != RECORD_HANDSHAKE {
            return Err(Stop::Refused("not a TLS handshake"));
        }
        let mut header = Reader(after);
        let version = header.u16()?;
        if version >> 8 != 3 {
            return Err(Stop::Refused("not a TLS handshake"));
        }
        let length = header.u16()? as usize;
        if length == 0 || length > RECORD_BYTES_MAX || message.len() + length > CLIENT_HELLO_BYTES_MAX {
            return Err(Stop::Refused("a TLS record of an impossible length"));
        }
        message.extend_from_slice(header.take(length)?);
        rest = header.0;
    }
}

/// The body of the handshake message at the beginning of `message`, if it is all there.
fn whole_message(message: &[u8]) -> Result<Option<&[u8]>, Stop> {
    let Some((&kind, after)) = message.split_first() else {
        return Ok(None);
    };
    if kind != MESSAGE_CLIENT_HELLO {
        return Err(Stop::Refused("not a ClientHello"));
    }
    let [a, b, c, body @ ..] = after else {
        return Ok(None);
    };
    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    if length > CLIENT_HELLO_BYTES_MAX {
        return Err(Stop::Refused("the ClientHello is too long"));
    }
    Ok(body.get(..length))
}

/// The server name in a ClientHello that is all there: running out of bytes is now an error.
fn name_of(body: &[u8]) -> Result<String, Stop> {
    find_name(&mut Reader(body)).map_err(|stop| match stop {
        Stop::Incomplete => Stop::Refused("a ClientHello whose lengths do not add up"),
        refused @ Stop::Refused(_) => refused,
    })
}

fn find_name(hello: &mut Reader<'_>) -> Result<String, Stop> {
    const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
    hello.take(VERSION_AND_RANDOM_BYTES)?;
    let session_id = hello.u8()?;
    hello.take(session_id.into())?;
    let cipher_suites = hello.u16()?;
    hello.take(cipher_suites.into())?;
    let compressions = hello.u8()?;
    hello.take(compressions.into())?;
    let extensions = hello.u16()?;
    let mut extensions = Reader(hello.take(extensions.into())?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let length = extensions.u16()?;
        let data = extensions.take(length.into())?;
        if kind == EXTENSION_SERVER_NAME {
            return host_name(&mut Reader(data));
        }
    }
    Err(Stop::Refused("a ClientHello without a server name"))
}

fn host_name(extension: &mut Reader<'_>) -> Result<String, Stop> {
    let length = extension.u16()?;
    let mut names = Reader(extension.take(length.into())?);
    let kind = names.u8()?;
    let length = names.u16()?;
    let name = names.take(length.into())?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b);
    if kind != NAME_TYPE_HOST || name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(plain) {
        return Err(Stop::Refused("a server name that is none"));
    }
    Ok(name.iter().map(|b| char::from(b.to_ascii_lowercase())).collect())
}

/// Takes bytes off the front.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], Stop> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Stop::Incomplete)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Stop> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Stop> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

#[cfg(test)]
mod tests;
