//! Rules of the pool in virtual time.
