//! Bytes of AMQP that the client could not read, changed in place to what it can.

/// Arrays and tables deeper than this become byte arrays, which have the same encoding but for the
/// type, so that nothing of them is lost. RabbitMQ's own headers are two deep.
pub(super) const DEEPEST: usize = 16;

const METHOD: u8 = 1;
const HEADER: u8 = 2;

/// The class of methods that carry what somebody published, and those methods.
const BASIC: u16 = 60;
const RETURN: u16 = 50;
const DELIVER: u16 = 60;
const GET_OK: u16 = 71;

/// Goes through an encoding from its front, and stops at what is none.
pub(crate) struct Tame<'a>(&'a mut [u8]);

impl<'a> Tame<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self(bytes)
    }

    /// Whether frames of this type carry what somebody published besides a payload.
    pub(super) fn wants(kind: u8) -> bool {
        matches!(kind, METHOD | HEADER)
    }

    /// The payload of a frame of such a type. What cannot be gone through to its end is the client's to
    /// refuse.
    pub(super) fn payload(&mut self, kind: u8) {
        let _ = if kind == METHOD { self.method() } else { self.header() };
    }

    /// The method that brings a message: the routing key is its publisher's.
    fn method(&mut self) -> Option<()> {
        if self.u16()? != BASIC {
            return Some(());
        }
        match self.u16()? {
            // The tag of the consumer; that of the delivery, and whether it came before.
            DELIVER => {
                self.short()?;
                self.take(8 + 1)?;
            }
            GET_OK => drop(self.take(8 + 1)?),
            RETURN => {
                self.take(2)?;
                self.short()?;
            }
            _ => return Some(()),
        }
        // Exchange and routing key.
        self.short()?;
        self.short()
    }

    /// The properties of a message.
    fn header(&mut self) -> Option<()> {
        // Class, weight, size of the payload.
        self.take(2 + 2 + 8)?;
        let flags = self.u16()?;
        // From the highest bit on: content type and encoding, headers, delivery mode, priority,
        // correlation id, reply to, expiration, message id, timestamp, type, user, application, cluster.
        for bit in (2..16).rev().filter(|bit| flags & (1 << bit) != 0) {
            match bit {
                13 => self.table(0)?,
                12 | 11 => drop(self.take(1)?),
                6 => drop(self.take(8)?),
                _ => self.short()?,
            }
        }
        Some(())
    }

    /// A value with its type.
    pub(crate) fn value(&mut self) -> Option<()> {
        self.value_at(0)
    }

    fn value_at(&mut self, depth: usize) -> Option<()> {
        let kind = self.take(1)?;
        let size = match kind[0] {
            b'A' | b'F' if depth >= DEEPEST => {
                kind[0] = b'x';
                self.size()?
            }
            b'A' => {
                let size = self.size()?;
                let mut inside = Tame(self.take(size)?);
                while !inside.0.is_empty() {
                    inside.value_at(depth + 1)?;
                }
                return Some(());
            }
            b'F' => return self.table(depth + 1),
            b'S' | b'x' => self.size()?,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'V' => 0,
            _ => return None,
        };
        self.take(size).map(drop)
    }

    fn table(&mut self, depth: usize) -> Option<()> {
        let size = self.size()?;
        let mut inside = Tame(self.take(size)?);
        while !inside.0.is_empty() {
            inside.short()?;
            inside.value_at(depth)?;
        }
        Some(())
    }

    /// A text of up to 255 bytes: what is not UTF-8 in it becomes question marks.
    fn short(&mut self) -> Option<()> {
        let size = usize::from(self.take(1)?[0]);
        let mut text = self.take(size)?;
        while let Err(error) = std::str::from_utf8(text) {
            let (_, bad) = text.split_at_mut(error.valid_up_to());
            let size = error.error_len().unwrap_or(bad.len());
            let (bad, rest) = bad.split_at_mut(size);
            bad.fill(b'?');
            text = rest;
        }
        Some(())
    }

    fn size(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes) as usize)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    }

    /// The next bytes.
    pub(crate) fn take(&mut self, size: usize) -> Option<&'a mut [u8]> {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut_checked(size)?;
        self.0 = rest;
        Some(taken)
    }
}
