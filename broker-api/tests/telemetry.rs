//! What is told about messages, and where it goes.
