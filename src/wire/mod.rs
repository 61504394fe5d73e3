//! The JSON that crosses the sockets, shared by server and client.
