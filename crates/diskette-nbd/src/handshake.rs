//! What client and server agree on before the first request: "Fixed newstyle negotiation".

use std::io::{Read, Write};

use crate::message::{Message, ReadNumbers, broken, u32_of};
use crate::transmission::MOST_PAYLOAD;
use crate::wire::{
    IHAVEOPT, NBDMAGIC, OPTION_REPLY, allocation, flag, handshake_flag, info, option, reply,
};
use crate::{Export, ServeError};

/// What came of it.
pub(crate) enum Agreed {
    /// The client left.
    Left,
    /// The client wants to use the disk.
    Transmit(Terms),
}

/// What the client has asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) structured: bool,
    /// Whether it may ask how runs are stored.
    pub(crate) allocation: bool,
}

/// Bytes of an option, at most: a name and some queries.
const MOST_OPTION: u32 = 64 << 10;
/// Options of one client, at most: one who only asks is let go.
const MOST_OPTIONS: usize = 1000;
/// "NBD_OPT_EXPORT_NAME": zeros behind its reply, unless the client can do without.
const PADDING: [u8; 124] = [0; 124];

pub(crate) fn negotiate<C: Read + Write>(
    client: &mut C,
    export: &Export,
) -> Result<Agreed, ServeError> {
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    let greeting = Message::default().u64(NBDMAGIC).u64(IHAVEOPT).u16(flags);
    client.write_all(greeting.as_bytes())?;
    client.flush()?;
    let theirs = client.u32()?;
    if theirs & !u32::from(flags) != 0 {
        return Err(broken(format!("handshake flags {theirs:#x}")));
    }
    let mut talk = Talk {
        client,
        export,
        terms: Terms::default(),
        no_zeroes: theirs & u32::from(handshake_flag::NO_ZEROES) != 0,
    };
    for _ in 0..MOST_OPTIONS {
        if let Some(agreed) = talk.option()? {
            return Ok(agreed);
        }
    }
    Err(broken(format!("more than {MOST_OPTIONS} options")))
}

struct Talk<'a, C> {
    client: &'a mut C,
    export: &'a Export,
    terms: Terms,
    no_zeroes: bool,
}

impl<C: Read + Write> Talk<'_, C> {
    /// Answers one option; says what was agreed on where that ends the talk.
    fn option(&mut self) -> Result<Option<Agreed>, ServeError> {
        let magic = self.client.u64()?;
        if magic != IHAVEOPT {
            return Err(broken(format!("an option begins with {magic:#x}")));
        }
        let number = self.client.u32()?;
        let len = self.client.u32()?;
        if len > MOST_OPTION {
            return Err(broken(format!("an option of {len} bytes")));
        }
        let mut data = Vec::new();
        self.client.take(len.into()).read_to_end(&mut data)?;
        if u32_of(data.len()) != len {
            return Err(broken("an option ends too early"));
        }
        match number {
            option::EXPORT_NAME => self.export_name(&data).map(Some),
            option::ABORT => {
                self.ack(number)?;
                Ok(Some(Agreed::Left))
            }
            option::LIST => self.list(&data).map(|()| None),
            option::INFO | option::GO => self.info(number, &data),
            option::STRUCTURED_REPLY => self.structured(&data).map(|()| None),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.contexts(number, &data).map(|()| None)
            }
            _ => self.refuse(number, reply::ERR_UNSUP).map(|()| None),
        }
    }

    /// The old way to go: no error can be told.
    fn export_name(&mut self, data: &[u8]) -> Result<Agreed, ServeError> {
        if !self.is_ours(data) {
            let name = String::from_utf8_lossy(data);
            return Err(broken(format!("there is no export '{name}'")));
        }
        let mut message = self.size_and_flags(Message::default());
        if !self.no_zeroes {
            message = message.bytes(&PADDING);
        }
        self.send(&message)?;
        Ok(Agreed::Transmit(self.terms))
    }

    fn list(&mut self, data: &[u8]) -> Result<(), ServeError> {
        if !data.is_empty() {
            return self.refuse(option::LIST, reply::ERR_INVALID);
        }
        let entry = Message::default()
            .text(&self.export.name)
            .bytes(self.export.description.as_bytes());
        self.reply(option::LIST, reply::SERVER, &entry)?;
        self.ack(option::LIST)
    }

    fn info(&mut self, number: u32, mut data: &[u8]) -> Result<Option<Agreed>, ServeError> {
        let Some(name) = take_text(&mut data).filter(|_| is_list_of_u16(data)) else {
            self.refuse(number, reply::ERR_INVALID)?;
            return Ok(None);
        };
        if !self.is_ours(name) {
            self.refuse(number, reply::ERR_UNKNOWN)?;
            return Ok(None);
        }
        let facts = self.size_and_flags(Message::default().u16(info::EXPORT));
        self.reply(number, reply::INFO, &facts)?;
        let export = self.export;
        for (kind, text) in [
            (info::NAME, &export.name),
            (info::DESCRIPTION, &export.description),
        ] {
            let message = Message::default().u16(kind).bytes(text.as_bytes());
            self.reply(number, reply::INFO, &message)?;
        }
        let sizes = Message::default()
            .u16(info::BLOCK_SIZE)
            .u32(1)
            .u32(PREFERRED)
            .u32(MOST_PAYLOAD);
        self.reply(number, reply::INFO, &sizes)?;
        self.ack(number)?;
        Ok((number == option::GO).then_some(Agreed::Transmit(self.terms)))
    }

    fn structured(&mut self, data: &[u8]) -> Result<(), ServeError> {
        if !data.is_empty() {
            return self.refuse(option::STRUCTURED_REPLY, reply::ERR_INVALID);
        }
        self.terms.structured = true;
        self.ack(option::STRUCTURED_REPLY)
    }

    /// Lists contexts, or sets those that requests may ask for: we have one.
    fn contexts(&mut self, number: u32, mut data: &[u8]) -> Result<(), ServeError> {
        let set = number == option::SET_META_CONTEXT;
        let name = take_text(&mut data);
        let queries = take_u32(&mut data);
        let (Some(name), Some(queries)) = (name, queries) else {
            return self.refuse(number, reply::ERR_INVALID);
        };
        if set && !self.terms.structured {
            return self.refuse(number, reply::ERR_INVALID);
        }
        if !self.is_ours(name) {
            return self.refuse(number, reply::ERR_UNKNOWN);
        }
        let mut wanted = !set && queries == 0;
        for _ in 0..queries {
            let Some(query) = take_text(&mut data) else {
                return self.refuse(number, reply::ERR_INVALID);
            };
            let all = !set && query == allocation::NAMESPACE.as_bytes();
            wanted |= all || query == allocation::NAME.as_bytes();
        }
        if !data.is_empty() {
            return self.refuse(number, reply::ERR_INVALID);
        }
        if set {
            self.terms.allocation = wanted;
        }
        if wanted {
            let id = if set { allocation::ID } else { 0 };
            let context = Message::default()
                .u32(id)
                .bytes(allocation::NAME.as_bytes());
            self.reply(number, reply::META_CONTEXT, &context)?;
        }
        self.ack(number)
    }

    /// An export without a name in the request is the default one: ours.
    fn is_ours(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.export.name.as_bytes()
    }

    fn size_and_flags(&self, message: Message) -> Message {
        let mut flags = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::CAN_MULTI_CONN
            | flag::SEND_CACHE
            | flag::SEND_DF;
        flags |= match self.export.writer() {
            Some(_) => flag::SEND_FUA | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES,
            None => flag::READ_ONLY,
        };
        message.u64(self.export.reader().size()).u16(flags)
    }

    fn ack(&mut self, option: u32) -> Result<(), ServeError> {
        self.reply(option, reply::ACK, &Message::default())
    }

    fn refuse(&mut self, option: u32, why: u32) -> Result<(), ServeError> {
        self.reply(option, why, &Message::default())
    }

    fn reply(&mut self, option: u32, kind: u32, data: &Message) -> Result<(), ServeError> {
        let message = Message::default()
            .u64(OPTION_REPLY)
            .u32(option)
            .u32(kind)
            .u32(u32_of(data.as_bytes().len()))
            .bytes(data.as_bytes());
        self.send(&message)
    }

    fn send(&mut self, message: &Message) -> Result<(), ServeError> {
        self.client.write_all(message.as_bytes())?;
        Ok(self.client.flush()?)
    }
}

/// Bytes of a request, preferably.
const PREFERRED: u32 = 64 << 10;

fn take_u32(data: &mut &[u8]) -> Option<u32> {
    let (number, rest) = data.split_first_chunk()?;
    *data = rest;
    Some(u32::from_be_bytes(*number))
}

fn take_text<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_u32(data)?).ok()?;
    let (text, rest) = data.split_at_checked(len)?;
    *data = rest;
    Some(text)
}

/// A list of kinds of information, behind their number. All that we have is told, whatever is asked for.
fn is_list_of_u16(data: &[u8]) -> bool {
    let Some((count, list)) = data.split_first_chunk() else {
        return false;
    };
    list.len() == usize::from(u16::from_be_bytes(*count)) * 2
}
