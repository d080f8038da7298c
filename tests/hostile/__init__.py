"""What others send, store, name and leave behind: each is an error at the sender or a dead letter, and the
worker goes on."""
