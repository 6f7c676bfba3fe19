// Package channel is the contract of the guest channel: how host and guest
// share one byte pipe (virtio-serial today, vsock where there is one) for many
// streams.
//
// Both ends first exchange a preamble (Magic, then 16 random bytes each way, and
// the echo of the other's bytes), so that stale bytes of an earlier connection
// are found and dropped. Then the pipe carries yamux; the host opens streams and
// the first byte of each names its kind. The guest trusts nothing of what
// arrives: every kind has its own bounds and policy.
//
// Of yamux only what is needed is spoken: data, window updates and go-away of at
// most 256 KiB windows on streams that the host opened; anything else ends the
// session. No pings: deadlines belong to the calls above. A session holds at
// most MaxStreams streams and so at most about 20 MiB.
//
// Trust zone: both ends link it, each treats the other as hostile.
package channel

// PortName is the virtio-serial port that carries the channel.
const PortName = "coffer.agent.0"

// Magic opens the preamble in both directions, 8 bytes.
const Magic = "coffer\x00\x01"

// Kind is the first byte of each stream.
type Kind byte

// Kinds of streams; others are closed at once.
const (
	KindTTRPC Kind = 't' // kata agent API (grpc.AgentService, grpc.Health) by ttrpc
)
