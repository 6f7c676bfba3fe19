package podpolicy

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/denial"
)

// FuzzAuthorize plays a host that sends anything in any order: data is a
// sequence of (kind, length, bytes), each an encoded request. Never a panic,
// never an error that is no denial, never an unknown field allowed.
func FuzzAuthorize(f *testing.F) {
	kinds := everyRequest()
	frame := func(steps ...proto.Message) []byte {
		var out []byte
		for _, m := range steps {
			for k, e := range kinds {
				if e.ProtoReflect().Descriptor() == m.ProtoReflect().Descriptor() {
					b, _ := proto.Marshal(m)
					out = append(out, byte(k), byte(len(b)>>8), byte(len(b)))
					out = append(out, b...)
				}
			}
		}
		return out
	}
	p := testPolicy()
	v := p.Volume("config")
	good := []proto.Message{
		p.CreateSandboxRequest("pod1", testDNS), CopyDirRequest(v, "d"),
		CopyFileRequests(v, "a.conf", []byte("level=very"))[0], CopyFileRequests(v, "d/b.conf", nil)[0],
		create(p, "prepare", "c1"),
	}
	for i := range good {
		f.Add(frame(good[:i+1]...))
	}
	f.Add(frame(kinds...))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, e := range []*Enforcer{NewEnforcer(nil), NewEnforcer(testPolicy())} {
			rest := data
			for len(rest) >= 3 {
				kind, n := int(rest[0])%len(kinds), int(rest[1])<<8|int(rest[2])
				rest = rest[3:]
				n = min(n, len(rest))
				m := kinds[kind].ProtoReflect().New().Interface()
				err := proto.Unmarshal(rest[:n], m)
				rest = rest[n:]
				if err != nil {
					continue
				}
				g, err := e.Authorize(m)
				if err != nil {
					if _, ok := denial.As(err); !ok {
						t.Fatalf("%v is no denial", err)
					}
					continue
				}
				if d := denyUnknown(m.ProtoReflect(), ""); d != nil {
					t.Fatalf("allowed with an unknown field: %v", d)
				}
				g.Done(nil)
			}
		}
	})
}

func BenchmarkAuthorizeCreateContainer(b *testing.B) {
	e, p := mustEnforcer(b)
	deliver(b, e, p)
	req := create(p, "prepare", "c1")
	for b.Loop() {
		g, err := e.Authorize(req)
		if err != nil {
			b.Fatal(err)
		}
		g.Done(errBench)
	}
}

var errBench = &denial.Denial{Reason: "bench"}
