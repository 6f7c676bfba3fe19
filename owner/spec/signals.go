package spec

import (
	"slices"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/owner/pod"
)

var signalNumbers = func() map[string]uint32 {
	m := map[string]uint32{}
	for i, n := range strings.Fields("HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS") {
		m[n] = uint32(i + 1)
	}
	m["POLL"], m["IOT"], m["RTMIN"], m["RTMAX"] = m["IO"], m["ABRT"], 34, 64
	return m
}()

// signals gives what the host may send: what ends a container, and what the
// image names for it. Not USR1, QUIT and the like, with which common runtimes
// open a debugger or print their memory's content into the logs.
func (b *builder) signals(c pod.Container, cfg *manifest.ContainerConfig) []uint32 {
	out := []uint32{signalNumbers["INT"], signalNumbers["KILL"], signalNumbers["TERM"]}
	stop, ok := stopSignal(cfg)
	if !ok {
		b.problem(c.Path+".image", "STOPSIGNAL %q is no signal", cfg.StopSignal)
		return out
	}
	if !slices.Contains(out, stop) {
		out = append(out, stop)
	}
	slices.Sort(out)
	return out
}

func stopSignal(cfg *manifest.ContainerConfig) (uint32, bool) {
	s := strings.ToUpper(cfg.StopSignal)
	if s == "" {
		return signalNumbers["TERM"], true
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return uint32(n), n >= 1 && n <= 64
	}
	s = strings.TrimPrefix(s, "SIG")
	for _, base := range []struct {
		name string
		sign int
	}{{"RTMIN+", 1}, {"RTMAX-", -1}} {
		if rest, ok := strings.CutPrefix(s, base.name); ok {
			k, err := strconv.Atoi(rest)
			n := int(signalNumbers[base.name[:5]]) + base.sign*k
			return uint32(n), err == nil && k >= 0 && n >= 34 && n <= 64
		}
	}
	n, ok := signalNumbers[s]
	return n, ok
}
