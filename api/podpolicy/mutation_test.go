package podpolicy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/cofferproject/coffer/api/agentpb"
)

// everyRequest gives an empty request of every method of grpc.AgentService.
func everyRequest() []proto.Message {
	var out []proto.Message
	seen := map[protoreflect.FullName]bool{}
	methods := agentpb.File_api_agentpb_agent_proto.Services().ByName("AgentService").Methods()
	for i := range methods.Len() {
		name := methods.Get(i).Input().FullName()
		if seen[name] {
			continue
		}
		seen[name] = true
		mt, err := protoregistry.GlobalTypes.FindMessageByName(name)
		if err != nil {
			panic(err)
		}
		out = append(out, mt.New().Interface())
	}
	return out
}

// TestNeverAllowed pins the requests that no policy allows, so that a new
// method of the published API is denied until somebody thinks about it.
func TestNeverAllowed(t *testing.T) {
	governed := "CreateContainer StartContainer RemoveContainer ExecProcess SignalProcess WaitProcess UpdateContainer StatsContainer WriteStream ReadStream " +
		"CloseStdin TtyWinResize UpdateInterface UpdateRoutes AddARPNeighbors CreateSandbox CopyFile VolumeStats GetDiagnosticData " +
		"GuestDetails GetOOMEvent ListInterfaces ListRoutes DestroySandbox"
	known := map[string]bool{}
	for _, n := range strings.Fields(governed) {
		known[n+"Request"] = true
	}
	e, p := mustEnforcer(t)
	startAll(t, e, p)
	n := 0
	for _, r := range everyRequest() {
		if !known[string(r.ProtoReflect().Descriptor().Name())] {
			refuse(t, e, r, RequestNotAllowed, string(r.ProtoReflect().Descriptor().Name()))
			n++
		}
	}
	if n != 17 {
		t.Errorf("%d requests are never allowed, want 17: think about the new one", n)
	}
}

// TestEveryFieldIsAccountedFor changes every field of every allowed request, at
// every depth, in every way: each change must be denied, unless the list of
// explained fields says why not.
func TestEveryFieldIsAccountedFor(t *testing.T) {
	// Message.path of fields whose value is the host's to choose, within the
	// grammar that other tests pin.
	explained := map[string]string{
		"UpdateInterfaceRequest.interface.mtu":                 "576 to 65535",
		"UpdateInterfaceRequest.interface.name":                "any name but lo",
		"UpdateInterfaceRequest.interface.device":              "any name but lo",
		"UpdateInterfaceRequest.interface.IPAddresses":         "the network is the host's",
		"UpdateRoutesRequest.routes":                           "the network is the host's",
		"AddARPNeighborsRequest.neighbors":                     "the network is the host's",
		"CreateSandboxRequest.dns":                             "name servers are the host's",
		"CreateSandboxRequest.sandbox_id":                      "any id",
		"RemoveContainerRequest.timeout":                       "how long to wait is the host's",
		"ReadStreamRequest.len":                                "how much to read is the host's",
		"WriteStreamRequest.data":                              "input is the host's where it is open",
		"TtyWinResizeRequest.row":                              "the window's size is the host's",
		"TtyWinResizeRequest.column":                           "the window's size is the host's",
		"SignalProcessRequest.signal":                          "each signal is judged",
		"UpdateContainerRequest.resources.Memory":              "allow_resource_updates",
		"UpdateContainerRequest.resources.CPU":                 "allow_resource_updates",
		"UpdateContainerRequest.resources":                     "allow_resource_updates: nothing to update",
		"ExecProcessRequest.exec_id":                           "any new id",
		"GuestDetailsRequest.mem_block_size":                   "query",
		"GuestDetailsRequest.mem_hotplug_probe":                "query",
		"CreateContainerRequest.OCI.Process.ConsoleSize":       "the window's size is the host's",
		"CreateContainerRequest.OCI.Linux.Devices[0].FileMode": "the mode of the host's node",
		"CreateContainerRequest.OCI.Linux.Devices[0].UID":      "the owner of the host's node",
		"CreateContainerRequest.OCI.Linux.Devices[0].GID":      "the owner of the host's node",
		"CreateContainerRequest.OCI.Linux.Devices[1].FileMode": "the mode of the host's node",
		"CreateContainerRequest.OCI.Linux.Devices[1].UID":      "the owner of the host's node",
		"CreateContainerRequest.OCI.Linux.Devices[1].GID":      "the owner of the host's node",
		"ExecProcessRequest.process.ConsoleSize":               "the window's size is the host's",
		"ExecProcessRequest.process.Env":                       "TERM=xterm may be left out",
	}
	for _, step := range allowedRequests(t) {
		name := string(step.req.ProtoReflect().Descriptor().Name())
		n := 0
		mutate(step.req, func(path string, m proto.Message) {
			n++
			g, err := step.e.Authorize(m)
			if err != nil {
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%s: %v tells a secret", path, err)
				}
				return
			}
			g.Done(errors.New("test"))
			field := name + "." + path
			for prefix := range explained {
				if field == prefix || strings.HasPrefix(field, prefix+".") || strings.HasPrefix(field, prefix+"[") {
					return
				}
			}
			t.Errorf("%s: a change of %s was allowed", step.name, field)
		})
		t.Logf("%s: %d mutants", step.name, n)
		allow(t, step.e, step.req)
	}
}

type allowedStep struct {
	name string
	e    *Enforcer
	req  proto.Message
}

// allowedRequests gives requests with the enforcer in the state that allows each.
func allowedRequests(t *testing.T) []allowedStep {
	var steps []allowedStep
	add := func(name string, prepare func(*Enforcer, *Policy) proto.Message) {
		e, p := mustEnforcer(t)
		steps = append(steps, allowedStep{name, e, prepare(e, p)})
	}
	add("interface", func(*Enforcer, *Policy) proto.Message {
		return &agentpb.UpdateInterfaceRequest{Interface: &agentpb.Interface{Name: "eth0", HwAddr: "52:54:00:12:34:56", IPAddresses: []*agentpb.IPAddress{{Address: "10.0.2.15", Mask: "24"}}}}
	})
	add("routes", func(*Enforcer, *Policy) proto.Message {
		return &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*agentpb.Route{{Device: "eth0", Gateway: "10.0.2.2"}}}}
	})
	add("neighbors", func(*Enforcer, *Policy) proto.Message {
		return &agentpb.AddARPNeighborsRequest{Neighbors: &agentpb.ARPNeighbors{ARPNeighbors: []*agentpb.ARPNeighbor{
			{ToIPAddress: &agentpb.IPAddress{Address: "10.0.2.2"}, Device: "eth0", Lladdr: "52:54:00:12:34:57", State: 0x80}}}}
	})
	add("sandbox", func(e *Enforcer, p *Policy) proto.Message { return p.CreateSandboxRequest("pod1", testDNS) })
	add("dir", func(e *Enforcer, p *Policy) proto.Message {
		allow(t, e, p.CreateSandboxRequest("pod1", nil))
		return CopyDirRequest(p.Volume("config"), "d")
	})
	add("file", func(e *Enforcer, p *Policy) proto.Message {
		allow(t, e, p.CreateSandboxRequest("pod1", nil))
		return CopyFileRequests(p.Volume("config"), "a.conf", []byte("level=very"))[0]
	})
	add("init", func(e *Enforcer, p *Policy) proto.Message {
		deliver(t, e, p)
		return create(p, "prepare", "c1")
	})
	for _, name := range []string{"app", "side"} {
		add(name, func(e *Enforcer, p *Policy) proto.Message {
			deliver(t, e, p)
			runInit(t, e, p)
			return create(p, name, "c1")
		})
	}
	add("start", func(e *Enforcer, p *Policy) proto.Message {
		deliver(t, e, p)
		allow(t, e, create(p, "prepare", "c1"))
		return &agentpb.StartContainerRequest{ContainerId: "c1"}
	})
	run := func(name string, f func(e *Enforcer, p *Policy) proto.Message) {
		add(name, func(e *Enforcer, p *Policy) proto.Message { startAll(t, e, p); return f(e, p) })
	}
	run("exec", func(e *Enforcer, p *Policy) proto.Message {
		return p.ExecProcessRequest(&p.Containers[0], "app-1", "x1", []string{"sh"}, testEnv, true)
	})
	for _, r := range []proto.Message{
		&agentpb.RemoveContainerRequest{ContainerId: "app-1"}, &agentpb.SignalProcessRequest{ContainerId: "app-1", Signal: 9},
		&agentpb.WaitProcessRequest{ContainerId: "app-1"}, &agentpb.StatsContainerRequest{ContainerId: "app-1"}, &agentpb.CloseStdinRequest{ContainerId: "app-1"},
		&agentpb.ReadStreamRequest{ContainerId: "app-1", Len: 5}, &agentpb.WriteStreamRequest{ContainerId: "side-1", Data: []byte("x")},
		&agentpb.TtyWinResizeRequest{ContainerId: "side-1", Row: 4, Column: 5},
		&agentpb.UpdateContainerRequest{ContainerId: "app-1", Resources: &agentpb.LinuxResources{Memory: &agentpb.LinuxMemory{Limit: 5}, CPU: &agentpb.LinuxCPU{Quota: 3, Period: 4}}},
		&agentpb.GetDiagnosticDataRequest{ContainerId: "app-1", LogType: "termination_log"},
		&agentpb.VolumeStatsRequest{VolumeGuestPath: LocalDir + "/scratch"},
		&agentpb.GuestDetailsRequest{}, &agentpb.GetOOMEventRequest{}, &agentpb.ListInterfacesRequest{}, &agentpb.ListRoutesRequest{},
	} {
		run(fmt.Sprintf("%T", r), func(*Enforcer, *Policy) proto.Message { return r })
	}
	return steps
}

// mutate calls f with copies of m that each differ from it in one place.
func mutate(m proto.Message, f func(path string, m proto.Message)) {
	mutateAt(m.ProtoReflect(), "", func(path string, change func(protoreflect.Message)) {
		c := proto.Clone(m)
		change(c.ProtoReflect())
		if !proto.Equal(c, m) {
			f(path, c)
		}
	})
}

type visit func(path string, change func(root protoreflect.Message))

// mutateAt walks shape (a message as it stands) and visits every change of it.
// change gets the message that stands where shape does in a copy.
func mutateAt(shape protoreflect.Message, path string, v visit) {
	v(path+"(unknown)", func(m protoreflect.Message) {
		m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9999, protowire.VarintType), 1))
	})
	fields := shape.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		at := strings.TrimPrefix(path+"."+string(fd.Name()), ".")
		switch {
		case fd.IsMap():
			v(at, func(m protoreflect.Message) {
				m.Mutable(fd).Map().Set(protoreflect.ValueOfString("x").MapKey(), protoreflect.ValueOfString("y"))
			})
			shape.Get(fd).Map().Range(func(k protoreflect.MapKey, val protoreflect.Value) bool {
				v(at, func(m protoreflect.Message) { m.Mutable(fd).Map().Clear(k) })
				v(at, func(m protoreflect.Message) { m.Mutable(fd).Map().Set(k, protoreflect.ValueOfString(val.String()+"x")) })
				return true
			})
		case fd.IsList():
			mutateList(shape, fd, at, v)
		case fd.Message() != nil:
			v(at, func(m protoreflect.Message) {
				if m.Has(fd) {
					m.Clear(fd)
				} else {
					m.Mutable(fd)
				}
			})
			mutateAt(shape.Get(fd).Message(), at, func(p string, change func(protoreflect.Message)) {
				v(p, func(m protoreflect.Message) { change(m.Mutable(fd).Message()) })
			})
		default:
			for _, val := range otherScalars(fd, shape.Get(fd)) {
				v(at, func(m protoreflect.Message) { m.Set(fd, val) })
			}
		}
	}
}

func mutateList(shape protoreflect.Message, fd protoreflect.FieldDescriptor, at string, v visit) {
	l := shape.Get(fd).List()
	if fd.Message() != nil {
		v(at, func(m protoreflect.Message) { m.Mutable(fd).List().AppendMutable() })
	} else {
		for _, val := range otherScalars(fd, shape.NewField(fd).List().NewElement()) {
			v(at, func(m protoreflect.Message) { m.Mutable(fd).List().Append(val) })
		}
	}
	if l.Len() == 0 {
		return
	}
	v(at, func(m protoreflect.Message) { m.Mutable(fd).List().Truncate(l.Len() - 1) })
	v(at, func(m protoreflect.Message) { m.Clear(fd) })
	v(at, func(m protoreflect.Message) { // the first once more
		x := m.Mutable(fd).List()
		if fd.Message() != nil {
			x.Append(protoreflect.ValueOfMessage(proto.Clone(x.Get(0).Message().Interface()).ProtoReflect()))
		} else {
			x.Append(x.Get(0))
		}
	})
	for i := range l.Len() {
		if fd.Message() != nil {
			mutateAt(l.Get(i).Message(), fmt.Sprintf("%s[%d]", at, i), func(p string, change func(protoreflect.Message)) {
				v(p, func(m protoreflect.Message) { change(m.Mutable(fd).List().Get(i).Message()) })
			})
			continue
		}
		for _, val := range otherScalars(fd, l.Get(i)) {
			v(fmt.Sprintf("%s[%d]", at, i), func(m protoreflect.Message) { m.Mutable(fd).List().Set(i, val) })
		}
	}
}

func otherScalars(fd protoreflect.FieldDescriptor, v protoreflect.Value) []protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return []protoreflect.Value{protoreflect.ValueOfBool(!v.Bool())}
	case protoreflect.StringKind:
		return []protoreflect.Value{
			protoreflect.ValueOfString(v.String() + "x"), protoreflect.ValueOfString(""), protoreflect.ValueOfString("/../" + v.String()),
			protoreflect.ValueOfString(v.String() + "\x00"), protoreflect.ValueOfString("LD_PRELOAD=/x"), protoreflect.ValueOfString("CAP_SYS_ADMIN"),
		}
	case protoreflect.BytesKind:
		return []protoreflect.Value{protoreflect.ValueOfBytes(append([]byte("x"), v.Bytes()...)), protoreflect.ValueOfBytes(nil)}
	case protoreflect.EnumKind:
		return []protoreflect.Value{protoreflect.ValueOfEnum(v.Enum() + 1), protoreflect.ValueOfEnum(77)}
	case protoreflect.Int32Kind:
		return []protoreflect.Value{protoreflect.ValueOfInt32(int32(v.Int()) + 1), protoreflect.ValueOfInt32(-1)}
	case protoreflect.Int64Kind:
		return []protoreflect.Value{protoreflect.ValueOfInt64(v.Int() + 1), protoreflect.ValueOfInt64(-1), protoreflect.ValueOfInt64(0)}
	case protoreflect.Uint32Kind:
		return []protoreflect.Value{protoreflect.ValueOfUint32(uint32(v.Uint()) + 1), protoreflect.ValueOfUint32(1 << 31), protoreflect.ValueOfUint32(0)}
	case protoreflect.Uint64Kind:
		return []protoreflect.Value{protoreflect.ValueOfUint64(v.Uint() + 1), protoreflect.ValueOfUint64(1 << 63), protoreflect.ValueOfUint64(0)}
	}
	panic(fmt.Sprintf("%s: kind %s is new to this test", fd.FullName(), fd.Kind()))
}
