package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestStartCPUs(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("cpu0/cache", "") // the first cannot be stopped and has no such file
	put("cpu1/online", "0\n")
	put("cpu12/online", "0\n")
	put("cpu2/online", "1\n")
	put("cpufreq/online", "0\n")
	if err := startCPUs(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"cpu1": "1", "cpu12": "1", "cpu2": "1\n", "cpufreq": "0\n"} {
		if b, err := os.ReadFile(filepath.Join(dir, name, "online")); err != nil || string(b) != want {
			t.Errorf("%s: %q, want %q; %v", name, b, want, err)
		}
	}
	put("cpu3/online/x", "") // a folder: cannot be read
	put("cpu4/online", "0")
	if startCPUs(dir) == nil {
		t.Error("no error for a CPU that cannot be started")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cpu4/online")); err != nil || string(b) != "1" {
		t.Errorf("one that cannot be started keeps the next from starting: %q, %v", b, err)
	}
}
