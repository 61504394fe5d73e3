//! What is on the record; the chain and its verification.
