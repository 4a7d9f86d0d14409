//! Short texts without a heap block of their own.

/// A text that does not change. Up to [`SHORT_BYTES_MAX`] bytes it lies in the value itself.
///
/// *Bounds*: 24 bytes, and a block of the heap if it is longer. Most client identifiers and many
/// filters are not.
#[derive(Debug)]
pub(crate) enum Name {
    /// The length, and the text in front.
    Short(u8, [u8; SHORT_BYTES_MAX]),
    Long(Box<[u8]>),
}

pub(crate) const SHORT_BYTES_MAX: usize = 22;

impl Name {
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut short = [0; SHORT_BYTES_MAX];
        match short.get_mut(..text.len()) {
            Some(front) => {
                front.copy_from_slice(text);
                Self::Short(text.len() as u8, short)
            }
            None => Self::Long(text.into()),
        }
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(len, text) => text.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(text) => text,
        }
    }

    /// The text; empty if it is none.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_was_put_in() {
        for len in [0, 1, 21, 22, 23, 400] {
            let text: Vec<u8> = (0..len).map(|n| b'a' + (n % 26) as u8).collect();
            let name = Name::new(&text);
            assert_eq!(name.as_bytes(), text);
            assert_eq!(matches!(name, Name::Short(..)), len <= 22);
        }
        assert_eq!(size_of::<Option<Name>>(), 24);
    }
}
