package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// smallDisk mounts a file system of its own at dir and gives what fills it to the last
// block, and what makes room again.
func smallDisk(t *testing.T, dir, size string) (fill, free func()) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("coffer-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no file system of its own, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(dir, "filler")
	return func() {
			f, err := os.Create(filler)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for err == nil {
				_, err = f.Write(make([]byte, 4096))
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
		}, func() {
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
		}
}

// The disk of the embedded store is full: what was acknowledged is there, what is not
// kept was not acknowledged, nobody gets in by what could not be written, whoever runs
// it can see why, and all goes on when there is room. Once the audit log has a disk of
// its own, and once both share the full one.
func TestFullDiskOfTheStore(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared with the audit log %v", shared), func(t *testing.T) {
			state := t.TempDir()
			fill, free := smallDisk(t, state, "4m")
			if !shared {
				smallDisk(t, filepath.Join(state, "audit"), "16m")
			}
			w := newWorld(t, withOps, func(c *Config) { c.State = state })
			t.Cleanup(w.stop) // before its disk goes
			doc := document(t, "pod a")
			w.bindSecret("default", secretName, "hunter2", doc)
			reader := w.client("")
			reader.handshake(doc)

			acked := map[string]string{}
			put := func(i int) int {
				name, value := fmt.Sprintf("default/full/s%d", i), fmt.Sprintf("value %d %s", i, strings.Repeat("x", 2000))
				status, b := w.admin.do("PUT", "/namespaces/default/resources/"+name, []byte(value))
				switch status {
				case 200:
					acked[name] = value
				case 503:
					if s := string(b); !strings.Contains(s, "store-unavailable") && !strings.Contains(s, "audit-unavailable") || strings.Contains(s, "no space") {
						t.Errorf("refused by %s", s)
					}
				default:
					t.Fatalf("put: %d %s", status, b)
				}
				return status
			}
			for i := range 5 {
				put(i)
			}
			fill()
			// Pages that the file has free go to a few.
			i, refused := 5, 0
			for ; refused < 20; i++ {
				if i > 2000 {
					t.Fatal("the disk never gets full")
				}
				if put(i) != 200 {
					refused++
				}
			}
			t.Logf("%d secrets were acknowledged, %d refused", len(acked), refused)
			part := "store"
			await(t, func() bool { s, b := w.scrape("/readyz"); return s == 503 && strings.Contains(b, part) })
			if s, _ := w.scrape("/healthz"); s != 200 {
				t.Errorf("a full disk is no reason to kill the process: %d", s)
			}
			// No session is let in that is not kept; each refusal says so.
			for range 20 {
				c := w.client("")
				if a := c.auth(fakeTEE, `""`); a.status != 200 {
					t.Fatalf("auth, which keeps nothing: %d %s", a.status, a.body)
				}
				a := c.attest(c.fake(doc), doc)
				if a.status == 503 {
					break
				}
				if a.status != 200 {
					t.Fatalf("attest: %d %s", a.status, a.body)
				}
			}
			// What needs no room in the store goes on: the audit log has its own.
			if a := reader.get(secretName); !shared && (a.status != 200 || string(reader.open(a.body)) != "hunter2") {
				t.Errorf("a read beside a full store: %d %s", a.status, a.body)
			} else if shared && a.status != 200 && a.status != 503 {
				t.Errorf("a read: %d %s", a.status, a.body)
			}
			free()
			await(t, func() bool { s, _ := w.scrape("/readyz"); return s == 200 })
			if put(100_000) != 200 {
				t.Error("nothing is kept although there is room again")
			}
			w.client("").handshake(doc)
			check := func(when string) {
				t.Helper()
				list := read[[]trusteeapi.Resource](w.admin, "/namespaces/default/resources")
				have := map[string]bool{}
				for _, r := range list {
					have[r.Name] = true
				}
				for name := range acked {
					if !have[name] {
						t.Errorf("%s: %s was acknowledged and is gone", when, name)
					}
				}
				if want := len(acked) + 1; len(list) != want {
					t.Errorf("%s: %d secrets, want %d: one is kept that was refused", when, len(list), want)
				}
			}
			check("with room again")
			w.stop()
			w.start()
			check("after a restart")
			for name, value := range acked {
				w.admin.must("POST", "/namespaces/default/bindings/"+name, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
				c := w.client("")
				c.handshake(doc)
				if a := c.get(name); a.status != 200 || string(c.open(a.body)) != value {
					t.Errorf("%s has another value: %d", name, a.status)
				}
			}
		})
	}
}
