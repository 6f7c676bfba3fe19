package agentdrive

import "net"

// New speaks over an open stream to an agent.
func New(conn net.Conn) *Agent { return client(conn) }
