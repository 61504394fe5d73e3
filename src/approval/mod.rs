//! Permit to `Clearance`: whether every piece of evidence is in hand.
