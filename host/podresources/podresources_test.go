package podresources

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

func field(n protowire.Number, value ...string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), strings.Join(value, ""))
}

func message(parts ...[]byte) string { return string(slices.Concat(parts...)) }

// answer is the kubelet's of a node with two pods of the same name.
func answer() []byte {
	cpus := protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), 7)
	topology := field(3, message(field(1, "\x08\x01")))
	pod := func(namespace string, containers ...string) []byte {
		parts := [][]byte{field(1, "gpu"), field(2, namespace)}
		for _, c := range containers {
			parts = append(parts, field(3, c))
		}
		return field(1, message(parts...))
	}
	claim := field(5, message(field(2, "claim"), field(4, message(field(1, message(field(1, "nvidia.com/pgpu=9"))), field(2, "driver")))))
	return slices.Concat(
		pod("other", message(field(1, "c"), field(2, message(field(1, "nvidia.com/pgpu"), field(2, "7"))))),
		pod("default",
			message(field(1, "a"), cpus, field(2, message(field(1, "nvidia.com/pgpu"), field(2, "1"), field(2, "0"), topology)), field(2, message(field(1, "example.com/nic"), field(2, "x")))),
			message(field(1, "b"), field(2, message(field(1, "nvidia.com/pgpu"), field(2, "0"))), claim)),
	)
}

var want = []string{"nvidia.com/pgpu=1", "nvidia.com/pgpu=0", "example.com/nic=x", "nvidia.com/pgpu=9"}

// TestOf asks a kubelet of the test's own over gRPC.
func TestOf(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "kubelet.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ForceServerCodec(raw{}))
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: "v1.PodResourcesLister", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "List", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var asked []byte
			if err := s.RecvMsg(&asked); err != nil || len(asked) > 0 {
				t.Errorf("asked with %x, %v", asked, err)
			}
			return s.SendMsg(answer())
		},
	}}}, nil)
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	if got, err := Of(t.Context(), socket, "default", "gpu"); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Of(t.Context(), socket, "default", "none"); err != nil || len(got) > 0 {
		t.Errorf("a pod that is not there: %q, %v", got, err)
	}
	srv.Stop()
	if _, err := Of(t.Context(), socket, "default", "gpu"); err == nil || !strings.Contains(err.Error(), socket) {
		t.Errorf("%v", err)
	}
}

func TestBounds(t *testing.T) {
	var ids [][]byte
	for i := range maxDevices + 1 {
		ids = append(ids, field(2, strings.Repeat("x", i+1)))
	}
	many := field(1, message(field(1, "p"), field(2, "n"), field(3, message(field(2, message(slices.Concat(ids...)))))))
	if _, err := decode(many, "n", "p"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
	for _, bad := range []string{"\x0a\xff", "\x0a", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if got, err := decode([]byte(bad), "n", "p"); err == nil {
			t.Errorf("%q: %q", bad, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(answer())
	f.Add([]byte("\x0a\x02\x1a\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decode(b, "default", "gpu")
		if err != nil && got != nil {
			t.Errorf("%q with %v", got, err)
		}
		for _, n := range got {
			if len(n) > 2*len(b)+1 {
				t.Errorf("%q is longer than the answer", n)
			}
		}
	})
}
