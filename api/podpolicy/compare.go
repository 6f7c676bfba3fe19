package podpolicy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

// judgeCreate compares a CreateContainerRequest with the one the policy builds
// for c, and returns the verified environment in the policy's order.
func (p *Policy) judgeCreate(req *agentpb.CreateContainerRequest, c *Container, claim, sandboxID string) ([]string, *denial.Denial) {
	oci := req.GetOCI()
	env, d := c.judgeEnv(oci.GetProcess().GetEnv(), claim, false)
	if d != nil {
		return nil, d
	}
	want := p.CreateContainerRequest(c, req.ContainerId, sandboxID, env)
	if d := judgeProcess(oci.GetProcess(), want.OCI.Process, claim); d != nil {
		return nil, d
	}
	if d := judgeMounts(oci.GetMounts(), want.OCI.Mounts, claim); d != nil {
		return nil, d
	}
	if d := judgeStorages(req.Storages, want.Storages, claim); d != nil {
		return nil, d
	}
	if g, w := oci.GetAnnotations()[AnnotationImage], c.Image; g != w {
		return nil, deny(ImageMismatch, claim+".image", orMissing(g), w)
	}
	if d := judgeLinux(oci, want.OCI, claim); d != nil {
		return nil, d
	}
	if d := c.judgeDevices(req, claim); d != nil {
		return nil, d
	}
	// What the typed comparisons judged, in whatever order the host listed it,
	// is taken as judged; the rest must be exactly what the policy builds.
	got := proto.CloneOf(req)
	if got.OCI == nil || got.OCI.Process == nil {
		return nil, deny(UnexpectedField, claim, "no OCI process", "one")
	}
	got.OCI.Process.Env = env
	got.OCI.Mounts, got.Storages = want.OCI.Mounts, want.Storages
	if len(c.Devices) > 0 { // all of them are there, as just judged
		got.Devices, got.OCI.Linux.Devices, got.OCI.Linux.Resources.Devices = want.Devices, want.OCI.Linux.Devices, want.OCI.Linux.Resources.Devices
	}
	if got.ExecId == got.ContainerId {
		got.ExecId = "" // both shims' names for the first process
	}
	if ociVerRE.MatchString(got.OCI.Version) {
		got.OCI.Version = OCIVersion // the layout is ours whatever 1.x the host's runtime speaks
	}
	if want.OCI.Process.Terminal && sizeOK(got.OCI.Process.ConsoleSize) {
		got.OCI.Process.ConsoleSize = nil
	}
	return env, diff(claim+".request", got.ProtoReflect(), want.ProtoReflect())
}

// judgeExec compares an ExecProcessRequest with the one the policy builds.
func (p *Policy) judgeExec(req *agentpb.ExecProcessRequest, c *Container, rule *Exec, claim string) ([]string, *denial.Denial) {
	proc := req.GetProcess()
	env, d := c.judgeEnv(proc.GetEnv(), claim, proc.GetTerminal())
	if d != nil {
		return nil, d
	}
	want := &agentpb.ExecProcessRequest{ContainerId: req.ContainerId, ExecId: req.ExecId, Process: c.process(proc.GetArgs(), env, proc.GetTerminal() && (rule.TTY || rule.Any))}
	if d := judgeProcess(proc, want.Process, claim); d != nil {
		return nil, d
	}
	got := proto.CloneOf(req)
	got.Process.Env = env
	if want.Process.Terminal && sizeOK(got.Process.ConsoleSize) {
		got.Process.ConsoleSize = nil
	}
	return env, diff(claim+".exec", got.ProtoReflect(), want.ProtoReflect())
}

func sizeOK(b *agentpb.Box) bool {
	return b != nil && b.Height <= 0xffff && b.Width <= 0xffff && len(b.ProtoReflect().GetUnknown()) == 0
}

// judgeEnv checks that got holds exactly the policy's variables and returns them
// in the policy's order. Values are compared, never printed, unless the policy
// itself spells them out.
func (c *Container) judgeEnv(got []string, claim string, tty bool) ([]string, *denial.Denial) {
	values := make(map[string]string, len(got))
	for _, kv := range got {
		name, value, ok := strings.Cut(kv, "=")
		at := fmt.Sprintf("%s.env[%s]", claim, clip(name))
		if _, twice := values[name]; twice {
			return nil, deny(EnvUnexpected, at, "given twice", "once")
		}
		if !ok || name == "" {
			return nil, deny(EnvUnexpected, at, "no value", "NAME=value")
		}
		values[name] = value
	}
	out := make([]string, 0, len(c.Env)+1)
	missing := ""
	for _, v := range c.Env {
		value, ok := values[v.Name]
		if !ok {
			if missing == "" {
				missing = v.Name
			}
			continue
		}
		delete(values, v.Name)
		at := fmt.Sprintf("%s.env[%s]", claim, clip(v.Name))
		if v.Value != nil && value != *v.Value {
			return nil, deny(EnvMismatch, at, fmt.Sprintf("another value, %d bytes", len(value)), *v.Value)
		}
		if v.From != "" {
			if f := hostWords[v.From]; f == nil || !f(value) {
				return nil, deny(EnvMismatch, at, value, "a value of the grammar "+v.From)
			}
		} else if v.Value == nil {
			sum := sha256.Sum256([]byte(value))
			if hex.EncodeToString(sum[:]) != v.SHA256 {
				return nil, deny(EnvMismatch, at, "a value with another SHA-256", "the value that the owner's Secret had")
			}
		}
		out = append(out, v.Name+"="+value)
	}
	if value, ok := values["TERM"]; ok && tty && "TERM="+value == termEnv {
		delete(values, "TERM")
		out = append(out, termEnv)
	}
	for _, name := range sortedKeys(values) {
		if value := values[name]; c.allowsLink(name, value) {
			delete(values, name)
			out = append(out, name+"="+value)
		}
	}
	// The unexpected comes before the missing: an injected loader variable is
	// the graver finding. Sorted, so that the same request has the same denial.
	if extra := sortedKeys(values); len(extra) > 0 {
		name := extra[0]
		measured := fmt.Sprintf("set, %d bytes", len(values[name]))
		if i := slices.IndexFunc(extra, LoaderVariable); i >= 0 {
			name = extra[i]
			measured = values[name] // a path or an option that the host made up
		}
		return nil, deny(EnvUnexpected, fmt.Sprintf("%s.env[%s]", claim, clip(name)), measured, "no such variable")
	}
	if missing != "" {
		return nil, deny(EnvMissing, fmt.Sprintf("%s.env[%s]", claim, clip(missing)), "missing", "set")
	}
	return out, nil
}

func judgeProcess(got, want *agentpb.Process, claim string) *denial.Denial {
	if !slices.Equal(got.GetArgs(), want.Args) {
		return deny(ArgsMismatch, claim+".args", fmt.Sprintf("%q", got.GetArgs()), fmt.Sprintf("%q", want.Args))
	}
	if got.GetCwd() != want.Cwd {
		return deny(ArgsMismatch, claim+".cwd", got.GetCwd(), want.Cwd)
	}
	if got.GetTerminal() != want.Terminal {
		return deny(ArgsMismatch, claim+".terminal", fmt.Sprint(got.GetTerminal()), fmt.Sprint(want.Terminal))
	}
	gu, wu := got.GetUser(), want.User
	switch {
	case gu.GetUID() != wu.UID:
		return deny(UserMismatch, claim+".user.uid", fmt.Sprint(gu.GetUID()), fmt.Sprint(wu.UID))
	case gu.GetGID() != wu.GID:
		return deny(UserMismatch, claim+".user.gid", fmt.Sprint(gu.GetGID()), fmt.Sprint(wu.GID))
	case !slices.Equal(gu.GetAdditionalGids(), wu.AdditionalGids):
		return deny(UserMismatch, claim+".user.additional_gids", fmt.Sprint(gu.GetAdditionalGids()), fmt.Sprint(wu.AdditionalGids))
	case got.GetNoNewPrivileges() != want.NoNewPrivileges:
		return deny(PrivilegeMismatch, claim+".no_new_privileges", fmt.Sprint(got.GetNoNewPrivileges()), fmt.Sprint(want.NoNewPrivileges))
	}
	gc, wc := got.GetCapabilities(), want.Capabilities
	for _, s := range []struct {
		name      string
		got, want []string
	}{
		{"bounding", gc.GetBounding(), wc.Bounding},
		{"effective", gc.GetEffective(), wc.Effective},
		{"permitted", gc.GetPermitted(), wc.Permitted},
		{"inheritable", gc.GetInheritable(), wc.Inheritable},
		{"ambient", gc.GetAmbient(), wc.Ambient},
	} {
		if !slices.Equal(s.got, s.want) {
			return deny(PrivilegeMismatch, claim+".capabilities."+s.name, fmt.Sprint(s.got), fmt.Sprint(s.want))
		}
	}
	return nil
}

func judgeMounts(got, want []*agentpb.Mount, claim string) *denial.Denial {
	return judgeSet(got, want, func(m *agentpb.Mount) string { return m.GetDestination() }, claim+".mounts")
}

func judgeStorages(got, want []*agentpb.Storage, claim string) *denial.Denial {
	if len(got) > 0 && len(want) > 0 {
		// The image's reference has a claim of its own: it is what the host most
		// wants to change.
		for _, s := range got {
			if s.GetDriver() == want[0].Driver && s.GetMountPoint() == want[0].MountPoint && s.GetSource() != want[0].Source {
				return deny(ImageMismatch, claim+".image", s.GetSource(), want[0].Source)
			}
		}
	}
	return judgeSet(got, want, func(s *agentpb.Storage) string { return s.GetMountPoint() }, claim+".storages")
}

// judgeSet compares two lists whose order carries no meaning, by a key that is
// unique in want.
func judgeSet[M interface {
	comparable
	proto.Message
}](got, want []M, key func(M) string, claim string) *denial.Denial {
	byKey := map[string]M{}
	for _, w := range want {
		byKey[key(w)] = w
	}
	for _, g := range got {
		w, ok := byKey[key(g)]
		at := fmt.Sprintf("%s[%s]", claim, clip(key(g)))
		if !ok {
			return deny(MountUnexpected, at, "present", "no such entry, or only once")
		}
		delete(byKey, key(g))
		if d := diff(at, g.ProtoReflect(), w.ProtoReflect()); d != nil {
			d.Reason = MountMismatch
			return d
		}
	}
	if missing := sortedKeys(byKey); len(missing) > 0 {
		return deny(MountMissing, fmt.Sprintf("%s[%s]", claim, missing[0]), "missing", "present")
	}
	return nil
}

func judgeLinux(got, want *agentpb.Spec, claim string) *denial.Denial {
	gl, wl := got.GetLinux(), want.Linux
	if got.GetRoot().GetReadonly() != want.Root.Readonly {
		return deny(PrivilegeMismatch, claim+".read_only_root", fmt.Sprint(got.GetRoot().GetReadonly()), fmt.Sprint(want.Root.Readonly))
	}
	if !slices.Equal(gl.GetMaskedPaths(), wl.MaskedPaths) {
		return deny(PrivilegeMismatch, claim+".masked_paths", fmt.Sprint(gl.GetMaskedPaths()), fmt.Sprint(wl.MaskedPaths))
	}
	if !slices.Equal(gl.GetReadonlyPaths(), wl.ReadonlyPaths) {
		return deny(PrivilegeMismatch, claim+".read_only_paths", fmt.Sprint(gl.GetReadonlyPaths()), fmt.Sprint(wl.ReadonlyPaths))
	}
	if gl.GetSeccomp() != nil {
		return deny(PrivilegeMismatch, claim+".seccomp", "a profile of the host", "none: the guest has the profile that the policy names")
	}
	if d := diff(claim+".resources", withoutDevices(gl.GetResources()), withoutDevices(wl.Resources)); d != nil {
		d.Reason = ResourceMismatch
		return d
	}
	return nil
}

func orMissing(s string) string {
	if s == "" {
		return "missing"
	}
	return s
}
