//! The few messages of a login, encoded and taken apart.

/// Authentication requests, the first field of message `R`.
pub(super) mod kind {
    pub(in crate::auth) const OK: u32 = 0;
    pub(in crate::auth) const CLEARTEXT: u32 = 3;
    pub(in crate::auth) const MD5: u32 = 5;
    pub(in crate::auth) const SASL: u32 = 10;
    pub(in crate::auth) const SASL_CONTINUE: u32 = 11;
    pub(in crate::auth) const SASL_FINAL: u32 = 12;
}

/// The tag of every message of a client in a login: PasswordMessage, SASLInitialResponse, SASLResponse.
pub(super) const CLIENT_TAG: u8 = b'p';

/// An authentication request with its data.
pub(super) fn request(kind: u32, data: &[u8]) -> Vec<u8> {
    encode(b'R', &[&kind.to_be_bytes(), data])
}

/// PasswordMessage.
pub(super) fn password(text: &[u8]) -> Vec<u8> {
    encode(CLIENT_TAG, &[text, b"\0"])
}

/// SASLInitialResponse.
pub(super) fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("a client-first message of ours is short");
    encode(CLIENT_TAG, &[mechanism.as_bytes(), b"\0", &length.to_be_bytes(), data])
}

/// SASLResponse.
pub(super) fn sasl_response(data: &[u8]) -> Vec<u8> {
    encode(CLIENT_TAG, &[data])
}

fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(1 + length);
    out.push(tag);
    out.extend_from_slice(&u32::try_from(length).expect("a login message of ours is short").to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// The kind and the data of message `R`.
pub(super) fn read_request(body: &[u8]) -> Option<(u32, &[u8])> {
    let (kind, data) = body.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*kind), data))
}

/// The text of PasswordMessage: one string that fills the message.
pub(super) fn read_password(body: &[u8]) -> Option<&[u8]> {
    let (last, text) = body.split_last()?;
    (*last == 0 && !text.contains(&0)).then_some(text)
}

/// The mechanism and the data of SASLInitialResponse; no data where its length is -1.
pub(super) fn read_sasl_initial(body: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = body.iter().position(|&byte| byte == 0)?;
    let (length, data) = body[end + 1..].split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        -1 if data.is_empty() => Some((&body[..end], None)),
        length if usize::try_from(length).is_ok_and(|length| length == data.len()) => Some((&body[..end], Some(data))),
        _ => None,
    }
}

/// The mechanisms that a server offers: strings, the last one empty, nothing behind it.
pub(super) fn read_mechanisms(data: &[u8]) -> Option<Vec<&[u8]>> {
    let list = data.strip_suffix(b"\0\0")?;
    Some(list.split(|&byte| byte == 0).collect())
}
