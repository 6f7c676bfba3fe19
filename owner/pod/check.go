package pod

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/cofferproject/coffer/api/podpolicy"
)

var (
	labelRE     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	subdomainRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	configKeyRE = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
	printableRE = regexp.MustCompile(`^[ -~]+$`)
)

// SafeSysctls are those that Kubernetes lets a pod set without the node's leave.
var SafeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// check judges the values of a pod whose structure is sound.
func (p *Pod) check(ps *problems) {
	if !subdomainRE.MatchString(p.Name) || strings.Contains(p.Name, "..") {
		ps.add("metadata.name", "%q is not a DNS name", p.Name)
	}
	if !labelRE.MatchString(p.Namespace) {
		ps.add("metadata.namespace", "%q is not a DNS label", p.Namespace)
	}
	s := &p.Spec
	oneOf(ps, "spec.restartPolicy", string(s.RestartPolicy), "Always", "OnFailure", "Never")
	if h := s.Hostname; h != "" && !labelRE.MatchString(h) {
		ps.add("spec.hostname", "%q is not a DNS label", h)
	}
	if h := s.Subdomain; h != "" && !labelRE.MatchString(h) {
		ps.add("spec.subdomain", "%q is not a DNS label", h)
	}
	if *s.TerminationGracePeriodSeconds < 0 {
		ps.add("spec.terminationGracePeriodSeconds", "negative")
	}
	if s.OS != nil {
		oneOf(ps, "spec.os.name", string(s.OS.Name), "linux")
	}
	if len(s.Containers) == 0 {
		ps.add("spec.containers", "missing: a pod has at least one container")
	}
	p.checkPodSecurity(ps)
	for i, a := range s.HostAliases {
		at := fmt.Sprintf("spec.hostAliases[%d]", i)
		if ip, err := netip.ParseAddr(a.IP); err != nil || ip.Zone() != "" || ip.IsUnspecified() {
			ps.add(at+".ip", "%q is no address", a.IP)
		}
		if len(a.Hostnames) == 0 {
			ps.add(at+".hostnames", "missing")
		}
		for j, n := range a.Hostnames {
			if !subdomainRE.MatchString(n) {
				ps.add(fmt.Sprintf("%s.hostnames[%d]", at, j), "%q is no DNS name", n)
			}
		}
	}
	volumes := p.checkVolumes(ps)
	names := map[string]bool{}
	for _, c := range p.All() {
		if names[c.Name] {
			ps.add(c.Path+".name", "%q twice", c.Name)
		}
		names[c.Name] = true
		p.checkContainer(c, volumes, ps)
	}
}

func oneOf(ps *problems, at, got string, want ...string) {
	if !slices.Contains(want, got) {
		ps.add(at, "%q is not %s", got, strings.Join(want, " or "))
	}
}

func (p *Pod) checkPodSecurity(ps *problems) {
	sc := p.Spec.SecurityContext
	if sc == nil {
		return
	}
	const at = "spec.securityContext"
	checkID(ps, at+".runAsUser", sc.RunAsUser)
	checkID(ps, at+".runAsGroup", sc.RunAsGroup)
	checkID(ps, at+".fsGroup", sc.FSGroup)
	for i := range sc.SupplementalGroups {
		checkID(ps, fmt.Sprintf("%s.supplementalGroups[%d]", at, i), &sc.SupplementalGroups[i])
	}
	if sc.SupplementalGroupsPolicy != nil {
		oneOf(ps, at+".supplementalGroupsPolicy", string(*sc.SupplementalGroupsPolicy), "Merge")
	}
	if sc.FSGroupChangePolicy != nil {
		oneOf(ps, at+".fsGroupChangePolicy", string(*sc.FSGroupChangePolicy), "Always", "OnRootMismatch")
	}
	checkSeccomp(ps, at, sc.SeccompProfile)
	checkAppArmor(ps, at, sc.AppArmorProfile)
	seen := map[string]bool{}
	for i, s := range sc.Sysctls {
		sub := fmt.Sprintf("%s.sysctls[%d]", at, i)
		if !slices.Contains(SafeSysctls, s.Name) {
			ps.add(sub+".name", "%q is not in Kubernetes' safe set", s.Name)
		}
		if seen[s.Name] {
			ps.add(sub+".name", "%q twice", s.Name)
		}
		seen[s.Name] = true
	}
}

func checkID(ps *problems, at string, id *int64) {
	if id != nil && (*id < 0 || *id > 1<<31-1) {
		ps.add(at, "%d is not between 0 and 2147483647", *id)
	}
}

func checkSeccomp(ps *problems, at string, s *corev1.SeccompProfile) {
	if s != nil {
		if s.Type == corev1.SeccompProfileTypeLocalhost {
			ps.add(at+".seccompProfile.type", "Localhost: a file of the node")
			return
		}
		oneOf(ps, at+".seccompProfile.type", string(s.Type), "RuntimeDefault", "Unconfined")
	}
}

func checkAppArmor(ps *problems, at string, a *corev1.AppArmorProfile) {
	if a != nil && a.Type != corev1.AppArmorProfileTypeUnconfined {
		ps.add(at+".appArmorProfile.type", "%s: the guest kernel runs without AppArmor", a.Type)
	}
}

func (p *Pod) checkVolumes(ps *problems) map[string]*corev1.Volume {
	byName := map[string]*corev1.Volume{}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		at := fmt.Sprintf("spec.volumes[%d]", i)
		if !labelRE.MatchString(v.Name) {
			ps.add(at+".name", "%q is not a DNS label", v.Name)
		}
		if byName[v.Name] != nil {
			ps.add(at+".name", "%q twice", v.Name)
		}
		byName[v.Name] = v
		n := 0
		for _, set := range []bool{v.ConfigMap != nil, v.Secret != nil, v.EmptyDir != nil, v.Projected != nil, v.DownwardAPI != nil, v.PersistentVolumeClaim != nil} {
			if set {
				n++
			}
		}
		if n != 1 {
			ps.add(at, "exactly one kind of volume belongs here")
			continue
		}
		if e := v.EmptyDir; e != nil {
			oneOf(ps, at+".emptyDir.medium", string(e.Medium), "", "Memory")
			if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
				ps.add(at+".emptyDir.sizeLimit", "negative")
			}
			continue
		}
		if c := v.PersistentVolumeClaim; c != nil {
			if c.ClaimName == "" {
				ps.add(at+".persistentVolumeClaim.claimName", "missing")
			}
			continue
		}
		p.volumeFiles(v, at, ps)
	}
	return byName
}

func (p *Pod) checkContainer(c Container, volumes map[string]*corev1.Volume, ps *problems) {
	if !labelRE.MatchString(c.Name) {
		ps.add(c.Path+".name", "%q is not a DNS label", c.Name)
	}
	if strings.TrimSpace(c.Image) == "" || c.Image != strings.TrimSpace(c.Image) {
		ps.add(c.Path+".image", "missing")
	}
	if c.WorkingDir != "" && (!path.IsAbs(c.WorkingDir) || strings.ContainsRune(c.WorkingDir, 0)) {
		ps.add(c.Path+".workingDir", "%q is not an absolute path", c.WorkingDir)
	}
	for i, port := range c.Ports {
		at := fmt.Sprintf("%s.ports[%d]", c.Path, i)
		if port.ContainerPort < 1 || port.ContainerPort > 65535 {
			ps.add(at+".containerPort", "%d is not between 1 and 65535", port.ContainerPort)
		}
		oneOf(ps, at+".protocol", string(port.Protocol), "TCP", "UDP")
	}
	p.checkCluster(c, ps)
	p.checkResources(c, ps)
	checkSecurity(c, ps)
	proc := p.process(c, ps)
	for _, l := range []struct {
		name string
		list []string
	}{{"command", proc.Command}, {"args", proc.Args}} {
		for i, s := range l.list {
			if strings.ContainsRune(s, 0) {
				ps.add(fmt.Sprintf("%s.%s[%d]", c.Path, l.name, i), "holds a NUL")
			}
		}
	}
	p.checkMounts(c, volumes, ps)
	p.checkDevices(c, volumes, ps)
}

func (p *Pod) checkMounts(c Container, volumes map[string]*corev1.Volume, ps *problems) {
	seen := map[string]bool{}
	for i, m := range c.VolumeMounts {
		at := fmt.Sprintf("%s.volumeMounts[%d]", c.Path, i)
		v := volumes[m.Name]
		if v == nil {
			ps.add(at+".name", "there is no volume %q", m.Name)
		}
		dest := path.Clean("/" + m.MountPath)
		switch {
		case m.MountPath == "" || strings.ContainsAny(m.MountPath, ":\x00"):
			ps.add(at+".mountPath", "%q is no path", m.MountPath)
		case dest == "/" || dest == "/dev" || dest == "/dev/pts" || dest == "/dev/mqueue" || under(dest, "/proc") || under(dest, "/sys"):
			ps.add(at+".mountPath", "%s belongs to the container's root or kernel file systems", dest)
		case seen[dest]:
			ps.add(at+".mountPath", "%s twice", dest)
		}
		seen[dest] = true
		if m.MountPropagation != nil {
			oneOf(ps, at+".mountPropagation", string(*m.MountPropagation), "None")
		}
		if m.RecursiveReadOnly != nil {
			oneOf(ps, at+".recursiveReadOnly", string(*m.RecursiveReadOnly), "Disabled", "IfPossible")
		}
		sub, err := p.SubPath(c, m)
		if err != nil {
			ps.add(at+".subPath", "%s", err)
			continue
		}
		if sub != "" && v != nil {
			if files, ok := p.volumeFiles(v, "", new(problems)); ok && !holds(files, sub) {
				ps.add(at+".subPath", "%q is not in volume %s", sub, m.Name)
			}
		}
	}
}

func under(p, top string) bool { return p == top || strings.HasPrefix(p, top+"/") }

func holds(files map[string]FileContent, sub string) bool {
	for name := range files {
		if under(name, sub) {
			return true
		}
	}
	return false
}

// SubPath gives the clean sub path of a mount, subPathExpr expanded; "" is the
// volume's root.
func (p *Pod) SubPath(c Container, m corev1.VolumeMount) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		if sub != "" {
			return "", fmt.Errorf("not beside subPathExpr")
		}
		ps := new(problems)
		sub, _ = p.env(c, new(problems)).expand(m.SubPathExpr, "subPathExpr", ps)
		if err := ps.err(); err != nil {
			return "", err
		}
		if strings.Contains(sub, "$(") {
			return "", fmt.Errorf("subPathExpr names a variable that is not set")
		}
	}
	if sub == "" {
		return "", nil
	}
	if path.IsAbs(sub) || slices.Contains(strings.Split(sub, "/"), "..") || strings.ContainsRune(sub, 0) {
		return "", fmt.Errorf("%q leaves the volume", sub)
	}
	if sub = path.Clean(sub); sub == "." {
		sub = ""
	}
	return sub, nil
}

func (p *Pod) checkResources(c Container, ps *problems) {
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"limits", c.Resources.Limits}, {"requests", c.Resources.Requests}} {
		for _, name := range keys(l.list) {
			q := l.list[name]
			at := fmt.Sprintf("%s.resources.%s[%s]", c.Path, l.name, name)
			switch name {
			case corev1.ResourceCPU, corev1.ResourceMemory:
			case corev1.ResourceEphemeralStorage:
				ps.note(at, "the guest has no disk: all storage is the VM's memory")
			default:
				if !strings.Contains(string(name), "/") {
					ps.add(at, "only cpu, memory and devices of the node (vendor/name)")
					break
				}
				ps.onCluster(at, "a device of the node: a kubelet gives it, and coffer run has none (--sim-device simulates one)")
			}
			if q.Sign() < 0 {
				ps.add(at, "negative")
			}
			if limit, ok := c.Resources.Limits[name]; ok && l.name == "requests" && q.Cmp(limit) > 0 {
				ps.add(at, "more than the limit %s", limit.String())
			}
		}
	}
}

func checkSecurity(c Container, ps *problems) {
	sc := c.SecurityContext
	if sc == nil {
		return
	}
	at := c.Path + ".securityContext"
	checkID(ps, at+".runAsUser", sc.RunAsUser)
	checkID(ps, at+".runAsGroup", sc.RunAsGroup)
	checkSeccomp(ps, at, sc.SeccompProfile)
	checkAppArmor(ps, at, sc.AppArmorProfile)
	if sc.ProcMount != nil {
		oneOf(ps, at+".procMount", string(*sc.ProcMount), "Default")
	}
	if sc.Capabilities == nil {
		return
	}
	for _, l := range []struct {
		name string
		caps []corev1.Capability
	}{{"add", sc.Capabilities.Add}, {"drop", sc.Capabilities.Drop}} {
		for i, name := range l.caps {
			if _, known := podpolicy.CapabilityNumber(CapabilityName(name)); !known && !AllCapabilities(name) {
				ps.add(fmt.Sprintf("%s.capabilities.%s[%d]", at, l.name, i), "%q is no capability", name)
			}
		}
	}
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation && slices.ContainsFunc(sc.Capabilities.Add, func(c corev1.Capability) bool { return c == "SYS_ADMIN" || c == "CAP_SYS_ADMIN" }) {
		ps.add(at+".allowPrivilegeEscalation", "false contradicts the capability SYS_ADMIN")
	}
}

// AllCapabilities reports whether c stands for all of them, which containerd takes in
// any case.
func AllCapabilities(c corev1.Capability) bool { return strings.EqualFold(string(c), "ALL") }

// CapabilityName gives the kernel's name of a capability, "CAP_...".
func CapabilityName(c corev1.Capability) string {
	return "CAP_" + strings.TrimPrefix(string(c), "CAP_")
}
