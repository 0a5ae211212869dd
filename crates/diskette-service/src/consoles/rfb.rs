//! What a viewer's side of the RFB protocol (RFC 6143) may pass on, if it only looks: the pointer, the keys and the clipboard
//! are left out.

/// Takes the client's bytes as they come, and gives those that are passed on.
#[derive(Debug)]
pub(crate) struct LookAlone {
    state: State,
    held: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// The protocol's version, the kind of security, and whether the screen is shared: so many bytes are to come.
    Greeting(usize),
    /// The type of a message is next.
    Between,
    /// So many bytes of a message are to come.
    Within { left: usize, passes: bool },
}

/// 12 bytes of version, 1 of security, 1 of ClientInit: QEMU without passwords asks for no more.
const GREETING: usize = 14;

impl Default for LookAlone {
    fn default() -> Self {
        Self {
            state: State::Greeting(GREETING),
            held: Vec::new(),
        }
    }
}

/// A message that is not known: where the next begins cannot be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown(u8);

impl LookAlone {
    /// What of `bytes`, and of those held back before, is passed on.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Unknown> {
        self.held.extend_from_slice(bytes);
        let mut passed = Vec::new();
        loop {
            match self.state {
                State::Greeting(0) => self.state = State::Between,
                State::Within { left: 0, .. } => self.state = State::Between,
                State::Greeting(left) => {
                    let taken = self.take(left, Some(&mut passed));
                    self.state = State::Greeting(left - taken);
                }
                State::Within { left, passes } => {
                    let taken = self.take(left, passes.then_some(&mut passed));
                    let left = left - taken;
                    self.state = State::Within { left, passes };
                }
                State::Between => match message(&self.held)? {
                    Some((left, passes)) => self.state = State::Within { left, passes },
                    None => return Ok(passed),
                },
            }
            let waits = matches!(
                self.state,
                State::Greeting(1..) | State::Within { left: 1.., .. }
            );
            if self.held.is_empty() && waits {
                return Ok(passed);
            }
        }
    }

    fn take(&mut self, most: usize, into: Option<&mut Vec<u8>>) -> usize {
        let len = most.min(self.held.len());
        let taken = self.held.drain(..len);
        match into {
            Some(into) => into.extend(taken),
            None => drop(taken),
        }
        len
    }
}

/// The length of the message that begins here, and whether it passes; `None` while too little has come to tell.
fn message(head: &[u8]) -> Result<Option<(usize, bool)>, Unknown> {
    let Some(&kind) = head.first() else {
        return Ok(None);
    };
    let known = match kind {
        0 => Some((20, true)),                                      // SetPixelFormat
        2 => number(head, 2, 2).map(|count| (4 + 4 * count, true)), // SetEncodings
        3 => Some((10, true)),                                      // FramebufferUpdateRequest
        4 => Some((8, false)),                                      // KeyEvent
        5 => Some((6, false)),                                      // PointerEvent
        6 => number(head, 4, 4).map(|len| (8 + clipboard(len), false)), // ClientCutText
        255 => match head.get(1) {
            None => None,
            Some(0) => Some((12, false)), // QEMU's extended KeyEvent
            Some(1) => Some((10, false)), // audio
            Some(_) => return Err(Unknown(kind)),
        },
        _ => return Err(Unknown(kind)),
    };
    Ok(known)
}

/// The extended clipboard tells its length as a negative number.
fn clipboard(len: usize) -> usize {
    let signed = i64::try_from(len).unwrap_or(0);
    let len = if signed > i64::from(i32::MAX) {
        (1 << 32) - signed
    } else {
        signed
    };
    usize::try_from(len).unwrap_or(0)
}

fn number(head: &[u8], at: usize, len: usize) -> Option<usize> {
    let bytes = head.get(at..at + len)?;
    Some(
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | usize::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = b"RFB 003.008\n\x01\x01";

    #[test]
    fn keys_pointer_and_clipboard_are_left_out_however_the_bytes_come() {
        let request = [3, 0, 0, 0, 0, 0, 1, 0, 1, 0];
        let encodings = [2, 0, 0, 1, 0, 0, 0, 7];
        let mut sent = HELLO.to_vec();
        sent.extend(encodings);
        sent.extend([4, 1, 0, 0, 0, 0, 0, 65]);
        sent.extend([5, 0, 0, 1, 0, 1]);
        sent.extend([6, 0, 0, 0, 0, 0, 0, 2, b'h', b'i']);
        sent.extend(b"\xff\x00\x00\x01\x00\x00\x00A\x00\x00\x00A");
        sent.extend([6, 0, 0, 0, 0xff, 0xff, 0xff, 0xfc, 1, 2, 3, 4]);
        sent.extend(request);
        let expected = [HELLO, &encodings, &request].concat();
        assert_eq!(LookAlone::default().pass(&sent).unwrap(), expected);
        let mut look = LookAlone::default();
        let mut passed = Vec::new();
        for byte in sent {
            passed.extend(look.pass(&[byte]).unwrap());
        }
        assert_eq!(passed, expected);
    }

    #[test]
    fn what_is_not_known_ends_the_view() {
        let mut look = LookAlone::default();
        look.pass(HELLO).unwrap();
        assert_eq!(look.pass(&[250]), Err(Unknown(250)));
    }
}
