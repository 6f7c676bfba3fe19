package server

import (
	"log/slog"
	"sync/atomic"
	"testing"
)

func benchWorld(b *testing.B) (*world, []byte) {
	w := newWorld(b, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
	doc := document(b, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	return w, doc
}

// BenchmarkHandshake is /auth and /attest with the fake TEE over TLS, audited and
// stored durably; client and server share the machine.
func BenchmarkHandshake(b *testing.B) {
	w, doc := benchWorld(b)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		c := w.client("")
		for pb.Next() {
			c.handshake(doc)
		}
	})
}

// BenchmarkResourceRead is one audited read on an attested session.
func BenchmarkResourceRead(b *testing.B) {
	w, doc := benchWorld(b)
	before := len(w.audit("release"))
	var n atomic.Int64
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		c := w.client("")
		c.handshake(doc)
		for pb.Next() {
			if a := c.get(secretName); a.status != 200 {
				b.Error(a.status)
				return
			}
			n.Add(1)
		}
	})
	b.StopTimer()
	if got := len(w.audit("release")) - before; got != int(n.Load()) {
		b.Errorf("%d reads, %d audit records", n.Load(), got)
	}
}
