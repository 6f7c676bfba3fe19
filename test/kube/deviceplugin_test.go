package kube

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

// plugin is a device plug-in of the kubelet's (v1beta1) with one device, of which
// containers are told by its CDI name. Messages are made by hand: the kubelet's module
// is no product's dependency.
type plugin struct {
	resource string
	stop     chan struct{}
}

type bytesCodec struct{}

func (bytesCodec) Name() string                    { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (bytesCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = slices.Clone(b); return nil }

func text(n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), s)
}

// start serves the plug-in in the kubelet's folder and registers it.
func (p *plugin) start(t *testing.T, dir string) {
	t.Helper()
	const socket = "coffer.sock"
	l, err := net.Listen("unix", filepath.Join(dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}))
	unary := func(answer []byte) func(any, grpc.ServerStream) error {
		return func(_ any, s grpc.ServerStream) error {
			var asked []byte
			return errors.Join(s.RecvMsg(&asked), s.SendMsg(answer))
		}
	}
	cdiDevice := text(5, string(text(1, p.resource+"=0")))
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: "v1beta1.DevicePlugin", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{
		{StreamName: "GetDevicePluginOptions", ServerStreams: true, Handler: unary(nil)},
		{StreamName: "Allocate", ServerStreams: true, Handler: unary(text(1, string(cdiDevice)))},
		{StreamName: "ListAndWatch", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var asked []byte
			if err := errors.Join(s.RecvMsg(&asked), s.SendMsg(text(1, string(slices.Concat(text(1, "0"), text(2, "Healthy")))))); err != nil {
				return err
			}
			select {
			case <-p.stop:
			case <-s.Context().Done():
			}
			return nil
		}},
	}}, nil)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { close(p.stop); srv.Stop() })
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var answer []byte
	if err := conn.Invoke(ctx, "/v1beta1.Registration/Register", slices.Concat(text(1, "v1beta1"), text(2, socket), text(3, p.resource)), &answer); err != nil {
		t.Fatal(err)
	}
}

// TestDevicePlugin: a pod asks the scheduler for a device, the kubelet gives it one, and
// the shim starts the VM with that. What an annotation names beside it is refused.
func TestDevicePlugin(t *testing.T) {
	k := cluster
	const resource, class = "plugin.coffer.example/gpu", "coffer-snp-sim-plugin"
	// A Unix socket's path is at most 108 bytes.
	link := filepath.Join("/tmp", filepath.Base(k.dir)+"-plugins")
	if err := os.Symlink(filepath.Join(k.base, "run", "kubelet", "device-plugins"), link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(link) })
	(&plugin{resource: resource, stop: make(chan struct{})}).start(t, link)
	k.apply(t, k.file(t, "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: "+class+"}\nhandler: "+class+"\n"))
	eventually(t, "the device of the plug-in on the node", func() (bool, string) {
		out, err := k.in("kubectl", "get", "nodes", "-o", "jsonpath={.items[0].status.allocatable}")
		return err == nil && strings.Contains(out, `"`+resource+`":"1"`), out
	})
	const script = "env; echo up; sleep 3600"
	limits := "    resources: {limits: {" + resource + ": 1}}\n"
	path, _ := k.seal(t, "snp-sim", simple("given", class, script)+limits, "--attest-device", "nvidia")
	k.apply(t, path)
	k.logs(t, "given", "up")
	if out := k.must(t, "kubectl", "logs", "given"); strings.Contains(out, "NVIDIA") {
		t.Errorf("the container has what the node adds for its own containers:\n%s", out)
	}
	taken := strings.Replace(simple("taken", class, script), "  labels:", "  annotations: {cdi.k8s.io/gpu: "+resource+"=0}\n  labels:", 1)
	path, _ = k.seal(t, "snp-sim", taken)
	k.apply(t, path)
	k.event(t, "taken", "the kubelet has not given it to the pod")
}
