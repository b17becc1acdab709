//! routeshare-tests
