package podpolicy

import (
	"strings"
	"testing"
)

// The file for the termination message is the owner's word alone, and neither hides what
// else is in the container nor is hidden.
func TestTerminationPath(t *testing.T) {
	c := &Container{
		Mounts: []Mount{{Destination: "/data"}}, ImageVolumes: []string{"/var/lib/x"}, Devices: []Device{{Path: "/dev/xvda"}},
	}
	if p := c.TerminationPath(); p != "/dev/termination-log" {
		t.Errorf("without a word of the owner's: %s", p)
	}
	for path, want := range map[string]string{
		"": "", "/tmp/words": "", "/run/a/b": "", "/dev/words": "",
		"tmp/words": "may not be", "/": "may not be", "/proc/1/x": "may not be", "/sys/x": "may not be", "/tmp/../etc/x": "may not be", "/dev": "may not be",
		"/data": "/data", "/data/words": "/data", "/var": "/var/lib/x", "/dev/xvda": "/dev/xvda", "/etc/hosts": "/etc/hosts", "/etc": "/etc/hosts",
		"/dev/termination-log": "/dev/termination-log", "/dev/shm/x": "/dev/shm", "/dev/null": "/dev/null",
	} {
		c.Termination = path
		if err := c.CheckTermination(); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
		if path != "" && c.TerminationPath() != path {
			t.Errorf("%q became %q", path, c.TerminationPath())
		}
	}
}
