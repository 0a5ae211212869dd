//! Requests and their replies: the "transmission phase".

use std::io::{ErrorKind, IoSlice, Read, Write};

use diskette_core::{BlockReader, BlockReaderExt, BlockWriter, Error, ExtentKind, check_range};

use crate::handshake::Terms;
use crate::message::{Message, ReadNumbers, broken, u32_of};
use crate::wire::{
    REQUEST, SIMPLE_REPLY, STRUCTURED_REPLY, allocation, chunk, command, command_flag, errno,
};
use crate::{Export, ServeError};

/// Bytes of a request or of a reply, at most: what "Block size constraints" recommends.
pub(crate) const MOST_PAYLOAD: u32 = 32 << 20;
/// Runs in one reply about what is stored where, at most.
const MOST_RUNS: usize = 4096;

pub(crate) fn run<C: Read + Write>(
    client: &mut C,
    export: &Export,
    terms: Terms,
) -> Result<(), ServeError> {
    let mut session = Session {
        client,
        export,
        terms,
        buffer: Vec::new(),
    };
    while let Some(request) = session.next()? {
        if request.command == command::DISC {
            return Ok(());
        }
        session.answer(&request)?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Request {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

/// Why a request fails, as the client is told.
struct Refusal {
    errno: u32,
    why: String,
}

struct Session<'a, C> {
    client: &'a mut C,
    export: &'a Export,
    terms: Terms,
    buffer: Vec<u8>,
}

impl<C: Read + Write> Session<'_, C> {
    /// The next request; `None` where the client hung up between two.
    fn next(&mut self) -> Result<Option<Request>, ServeError> {
        let magic = match self.client.u32() {
            Ok(magic) => magic,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if magic != REQUEST {
            return Err(broken(format!("a request begins with {magic:#x}")));
        }
        Ok(Some(Request {
            flags: self.client.u16()?,
            command: self.client.u16()?,
            cookie: self.client.u64()?,
            offset: self.client.u64()?,
            len: self.client.u32()?,
        }))
    }

    fn answer(&mut self, request: &Request) -> Result<(), ServeError> {
        if request.command == command::WRITE {
            self.receive(request.len)?;
        }
        let done = match request.command {
            command::READ => return self.read(request),
            command::BLOCK_STATUS => return self.status(request),
            command::WRITE => self.write(request),
            command::WRITE_ZEROES => self.write_zeros(request),
            command::TRIM => self.trim(request),
            command::FLUSH => self.flush(),
            command::CACHE => self.check(request),
            other => Err(Refusal::new(
                errno::EINVAL,
                format!("command {other} is not known"),
            )),
        };
        match done {
            Ok(()) => self.acknowledge(request),
            Err(refusal) => self.refuse(request, &refusal),
        }
    }

    /// Takes in what a client wants to have written. One who sends too much can only be sent away.
    fn receive(&mut self, len: u32) -> Result<(), ServeError> {
        if len > MOST_PAYLOAD {
            return Err(broken(format!("{len} bytes in one request")));
        }
        self.buffer.clear();
        self.client.take(len.into()).read_to_end(&mut self.buffer)?;
        if u32_of(self.buffer.len()) != len {
            return Err(broken("a request ends too early"));
        }
        Ok(())
    }

    fn disk(&self) -> &dyn BlockReader {
        self.export.reader()
    }

    fn writer(&self) -> Result<&dyn BlockWriter, Refusal> {
        let refusal = || Refusal::new(errno::EPERM, "the export is read-only");
        self.export.writer().ok_or_else(refusal)
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let range = check_range(self.disk().size(), request.offset, request.len.into());
        range.map_err(|error| Refusal::new(errno::EINVAL, error.to_string()))
    }

    fn check_writable(&self, request: &Request) -> Result<&dyn BlockWriter, Refusal> {
        let writer = self.writer()?;
        let range = check_range(self.disk().size(), request.offset, request.len.into());
        range.map_err(|error| Refusal::new(errno::ENOSPC, error.to_string()))?;
        Ok(writer)
    }

    fn write(&self, request: &Request) -> Result<(), Refusal> {
        let writer = self.check_writable(request)?;
        writer.write_at(&self.buffer, request.offset)?;
        self.settle(request, writer)
    }

    /// Space is given back where the format can; "NBD_CMD_FLAG_NO_HOLE" asks for zeros that are written out.
    fn write_zeros(&self, request: &Request) -> Result<(), Refusal> {
        const FAST_ZERO: u16 = 1 << 4;
        let writer = self.check_writable(request)?;
        if request.flags & FAST_ZERO != 0 {
            return Err(Refusal::new(
                errno::ENOTSUP,
                "whether it is fast is not known",
            ));
        }
        let (offset, len) = (request.offset, u64::from(request.len));
        if request.flags & command_flag::NO_HOLE == 0 {
            writer.write_zeros(offset, len)?;
            return self.settle(request, writer);
        }
        let zeros = vec![0; 1 << 20];
        let mut at = 0;
        while at < len {
            let part = usize::try_from(len - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            writer.write_at(&zeros[..part], offset + at)?;
            at += part as u64;
        }
        self.settle(request, writer)
    }

    /// The client does not need what is there any more.
    fn trim(&self, request: &Request) -> Result<(), Refusal> {
        let writer = self.check_writable(request)?;
        writer.discard(request.offset, request.len.into())?;
        self.settle(request, writer)
    }

    fn flush(&self) -> Result<(), Refusal> {
        Ok(self.export.flush()?)
    }

    /// "Force Unit Access": done means on stable storage.
    fn settle(&self, request: &Request, writer: &dyn BlockWriter) -> Result<(), Refusal> {
        if request.flags & command_flag::FUA != 0 {
            writer.flush()?;
        }
        Ok(())
    }

    fn read(&mut self, request: &Request) -> Result<(), ServeError> {
        let checked = self.check(request).and_then(|()| match request.len {
            len if len > MOST_PAYLOAD => Err(Refusal::new(
                errno::EOVERFLOW,
                format!("{len} bytes in one request"),
            )),
            _ => Ok(()),
        });
        if let Err(refusal) = checked {
            return self.refuse(request, &refusal);
        }
        match self.terms.structured && request.flags & command_flag::DF == 0 {
            true => self.read_by_runs(request),
            false => self.read_whole(request),
        }
    }

    fn read_whole(&mut self, request: &Request) -> Result<(), ServeError> {
        let len = request.len as usize;
        self.grow(len);
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.disk().read_at(&mut buffer[..len], request.offset);
        let sent = match read {
            Err(error) => self.refuse(request, &error.into()),
            Ok(()) if self.terms.structured => {
                self.send_data(request, chunk::DONE, request.offset, &buffer[..len])
            }
            Ok(()) => self.send_simple(request, 0, &buffer[..len]),
        };
        self.buffer = buffer;
        sent
    }

    /// Data is sent, and of holes no more than where they are.
    fn read_by_runs(&mut self, request: &Request) -> Result<(), ServeError> {
        let end = request.offset + u64::from(request.len);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut at = request.offset;
        while at < end {
            let extent = match self.disk().extent_at(at) {
                Ok(extent) => extent.clip(at, end),
                Err(error) => return self.refuse(request, &error.into()),
            };
            let flags = if extent.end() == end { chunk::DONE } else { 0 };
            // What was clipped to the request is no longer than its u32.
            let len = usize::try_from(extent.len).unwrap_or(0);
            if extent.kind.reads_as_zeros() {
                self.send_hole(request, flags, at, u32_of(len))?;
            } else {
                if buffer.len() < len {
                    buffer.resize(len, 0);
                }
                if let Err(error) = self.disk().read_extent(&extent, &mut buffer[..len], at) {
                    return self.refuse(request, &error.into());
                }
                self.send_data(request, flags, at, &buffer[..len])?;
            }
            at = extent.end();
        }
        self.buffer = buffer;
        match request.len {
            0 => self.send_chunk(request, chunk::DONE, chunk::NONE, &[], &[]),
            _ => Ok(()),
        }
    }

    fn status(&mut self, request: &Request) -> Result<(), ServeError> {
        let allowed = match self.terms.allocation && request.len > 0 {
            true => self.check(request),
            false => Err(Refusal::new(errno::EINVAL, "no context has been agreed on")),
        };
        let runs = allowed.and_then(|()| Ok(self.runs(request)?));
        match runs {
            Ok(runs) => {
                let payload = runs.iter().fold(
                    Message::default().u32(allocation::ID),
                    |message, (len, state)| message.u32(*len).u32(*state),
                );
                self.send_chunk(
                    request,
                    chunk::DONE,
                    chunk::BLOCK_STATUS,
                    payload.as_bytes(),
                    &[],
                )
            }
            Err(refusal) => self.refuse(request, &refusal),
        }
    }

    /// Lengths and states of the runs in a range, neighbours joined; as many as fit.
    fn runs(&self, request: &Request) -> diskette_core::Result<Vec<(u32, u32)>> {
        let one = request.flags & command_flag::REQ_ONE != 0;
        let most = if one { 1 } else { MOST_RUNS };
        let end = request.offset + u64::from(request.len);
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let mut at = request.offset;
        while at < end {
            let extent = self.disk().extent_at(at)?.clip(at, end);
            let len = u32::try_from(extent.len).unwrap_or(u32::MAX);
            let state = state(&extent.kind);
            let full = runs.len() == most;
            match runs.last_mut() {
                Some(last) if last.1 == state => last.0 += len,
                _ if full => break,
                _ => runs.push((len, state)),
            }
            at = extent.end();
        }
        Ok(runs)
    }

    fn grow(&mut self, len: usize) {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
    }

    fn acknowledge(&mut self, request: &Request) -> Result<(), ServeError> {
        self.send_simple(request, 0, &[])
    }

    fn refuse(&mut self, request: &Request, refusal: &Refusal) -> Result<(), ServeError> {
        let must_be_structured = matches!(request.command, command::READ | command::BLOCK_STATUS);
        if !self.terms.structured || !must_be_structured {
            return self.send_simple(request, refusal.errno, &[]);
        }
        let text = refusal.why.as_bytes();
        let text = &text[..text.len().min(MOST_TEXT)];
        let payload = Message::default()
            .u32(refusal.errno)
            .u16(u16::try_from(text.len()).unwrap_or(0))
            .bytes(text);
        self.send_chunk(request, chunk::DONE, chunk::ERROR, payload.as_bytes(), &[])
    }

    fn send_data(
        &mut self,
        request: &Request,
        flags: u16,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ServeError> {
        let offset = offset.to_be_bytes();
        self.send_chunk(request, flags, chunk::OFFSET_DATA, &offset, data)
    }

    fn send_hole(
        &mut self,
        request: &Request,
        flags: u16,
        offset: u64,
        len: u32,
    ) -> Result<(), ServeError> {
        let payload = Message::default().u64(offset).u32(len);
        self.send_chunk(request, flags, chunk::OFFSET_HOLE, payload.as_bytes(), &[])
    }

    fn send_chunk(
        &mut self,
        request: &Request,
        flags: u16,
        kind: u16,
        head: &[u8],
        data: &[u8],
    ) -> Result<(), ServeError> {
        let message = Message::default()
            .u32(STRUCTURED_REPLY)
            .u16(flags)
            .u16(kind)
            .u64(request.cookie)
            .u32(u32_of(head.len() + data.len()))
            .bytes(head);
        self.send(message.as_bytes(), data)
    }

    fn send_simple(
        &mut self,
        request: &Request,
        errno: u32,
        data: &[u8],
    ) -> Result<(), ServeError> {
        let message = Message::default()
            .u32(SIMPLE_REPLY)
            .u32(errno)
            .u64(request.cookie);
        self.send(message.as_bytes(), data)
    }

    /// Sends both in one go, where the host takes them so.
    fn send(&mut self, head: &[u8], data: &[u8]) -> Result<(), ServeError> {
        let sent = loop {
            let slices = [IoSlice::new(head), IoSlice::new(data)];
            match self.client.write_vectored(&slices) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.client.write_all(&head[sent.min(head.len())..])?;
        self.client
            .write_all(&data[sent.saturating_sub(head.len())..])?;
        Ok(self.client.flush()?)
    }
}

/// Bytes of a text that goes with an error, at most.
const MOST_TEXT: usize = 4096;

const fn state(kind: &ExtentKind) -> u32 {
    match kind {
        ExtentKind::Data(_) | ExtentKind::Encrypted(_) | ExtentKind::Compressed { .. } => 0,
        ExtentKind::Zero(_) | ExtentKind::Unwritten(_) => allocation::STATE_ZERO,
        ExtentKind::Hole(_) => allocation::STATE_HOLE | allocation::STATE_ZERO,
    }
}

impl Refusal {
    fn new(errno: u32, why: impl Into<String>) -> Self {
        Self {
            errno,
            why: why.into(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let errno = match &error {
            Error::Io { source, .. } if source.kind() == ErrorKind::StorageFull => errno::ENOSPC,
            Error::OutOfRange { .. } => errno::EINVAL,
            Error::Unsupported { .. } => errno::ENOTSUP,
            _ => errno::EIO,
        };
        Self::new(errno, error.to_string())
    }
}
