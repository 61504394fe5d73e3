//! Secret bytes: wiped when dropped, never printed, cloned or serialised.

use zeroize::{Zeroize, Zeroizing};

/// The only type a secret value may have. There is deliberately no `Debug`, `Clone`, `Display` or `Serialize`.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over; the vector is wiped when this is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Copies `bytes` and wipes where they came from.
    pub fn take_from(bytes: &mut [u8]) -> Self {
        let taken = Self::new(bytes.to_vec());
        bytes.zeroize();
        taken
    }

    /// The bytes themselves. Each call is a place to look at in review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Bytes in the value.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
