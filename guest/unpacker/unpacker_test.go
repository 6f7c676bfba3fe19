package unpacker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/guest/keyholder/layerkey"
	"github.com/cofferproject/coffer/guest/proc"
	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/ocicrypt"
	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/image/registry"
	. "github.com/cofferproject/coffer/test/imagetest"
)

// The test binary is its own parser and writer, as coffer-guest is.
func TestMain(m *testing.M) {
	unconfined := os.Getenv(unconfinedVar) // see execStarter
	switch name := filepath.Base(os.Args[0]); {
	case unconfined != "" && name == ParserName:
		os.Exit(parserLoop())
	case unconfined != "" && name == WriterName:
		os.Exit(writeLayer(unconfined))
	}
	switch filepath.Base(os.Args[0]) {
	case ParserName:
		os.Exit(ParserMain(nil))
	case WriterName:
		os.Exit(WriterMain(nil))
	}
	code := m.Run()
	if exePath != "" {
		_ = os.RemoveAll(filepath.Dir(exePath))
	}
	os.Exit(code)
}

var reaper = sync.OnceValue(func() *proc.Reaper {
	r := proc.NewReaper()
	go r.Run(context.Background())
	return r
})

// newService gives a Service with really confined processes.
func newService(t testing.TB, opt Options) *Service {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: confined processes, owners, device nodes")
	}
	if cgo && opt.Start == nil {
		opt.Start = execStarter(testExe(t))
	}
	if opt.Root == "" {
		// Not below t.TempDir: its parents are closed to the parser's user.
		dir, err := os.MkdirTemp("", "unpacker-")
		if err != nil {
			t.Fatal(err)
		}
		if err := MountStore(dir, 256<<20); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH); _ = os.Remove(dir) })
		opt.Root = dir
	}
	exe := testExe(t)
	opt.Platform = manifest.Platform{OS: "linux", Architecture: "amd64"}
	if opt.Start == nil {
		opt.Start = WithSupervisor(&proc.Supervisor{Exe: exe, Reaper: reaper(), Log: slog.New(slog.DiscardHandler)}, 0)
	}
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

const unconfinedVar = "UNPACKER_TEST_UNCONFINED"

// execStarter starts the processes as they are: a binary with cgo, which the race
// detector needs, cannot give up capabilities on all threads.
func execStarter(exe string) Starter {
	return func(name, root string, files []*os.File) (Process, error) {
		cmd := exec.Command(exe)
		cmd.Args = []string{name}
		cmd.Env = []string{unconfinedVar + "=" + root}
		cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		p := &execProcess{cmd: cmd, done: make(chan struct{})}
		go func() { _ = cmd.Wait(); close(p.done) }()
		return p, nil
	}
}

type execProcess struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func (p *execProcess) Done() <-chan struct{} { return p.done }
func (p *execProcess) Kill()                 { _ = p.cmd.Process.Kill() }
func (p *execProcess) ExitCode() int         { return p.cmd.ProcessState.ExitCode() }

// testExe is a copy of this binary that the parser's user may execute.
func testExe(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	exeOnce.Do(func() {
		dir, err := os.MkdirTemp("", "unpacker-exe-")
		if err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(dir, 0o755)
		exePath = filepath.Join(dir, "exe")
		if err := copyFile(self, exePath); err != nil {
			t.Fatal(err)
		}
	})
	return exePath
}

var (
	exeOnce sync.Once
	exePath string
)

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

var kek = bytes.Repeat([]byte{4}, 32)

// keyHolder stands in for the key holder: it knows kek and believes everybody.
func keyHolder(t testing.TB, asked *atomic.Int64) func(context.Context, digest.Digest) (*os.File, error) {
	return func(context.Context, digest.Digest) (*os.File, error) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fds[0]), "")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, err
		}
		go func() {
			defer conn.Close()
			for {
				op, body, err := layerkey.ReadMessage(conn)
				if err != nil {
					return
				}
				if op == layerkey.OpManifest {
					_ = layerkey.WriteMessage(conn, layerkey.AnswerOK, nil)
					continue
				}
				asked.Add(1)
				p, err := ocicrypt.ParsePacket(body)
				var out []byte
				if err == nil {
					out, err = p.Open(kek)
				}
				if err != nil {
					_ = layerkey.WriteMessage(conn, layerkey.AnswerErr, []byte(`{"reason":"not-bound","component":"kbs","claim":"key"}`))
					continue
				}
				_ = layerkey.WriteMessage(conn, layerkey.AnswerOK, out)
			}
		}()
		return os.NewFile(uintptr(fds[1]), ""), nil
	}
}

func request(t testing.TB, r *Registry, m digest.Digest) PullRequest {
	t.Helper()
	ref, err := reference.Parse(r.Host() + "/team/app@" + string(m))
	if err != nil {
		t.Fatal(err)
	}
	return PullRequest{Image: ref, ManifestDigest: m, Config: registry.Config{
		Conf:  registry.Conf{Registries: []registry.Registry{{Location: r.Host(), Insecure: true}}},
		Times: registry.Timeouts{Header: 2 * time.Second, Stall: time.Second, Small: 3 * time.Second, Attempts: 2, Backoff: time.Millisecond},
	}}
}

func TestPull(t *testing.T) {
	r := NewRegistry(t)
	s := newService(t, Options{Warm: true})
	a := Tar(t, Entry{Name: "etc", Type: tar.TypeDir}, Entry{Name: "etc/a", Data: "A"}, Entry{Name: "bin/su", Data: "x", Mode: 0o4755})
	b := Tar(t, Entry{Name: "etc/.wh.a"}, Entry{Name: "opt/.wh..wh..opq"}, Entry{Name: "opt/b", Data: "B", UID: 7, GID: 8})
	c := Tar(t, Entry{Name: "c", Data: strings.Repeat("C", 3<<20)})
	kid := "kbs:///default/key/1"
	secret := c.Gzip(t).Encrypt(t, kid, kek)
	m := r.Image(t, "v1", `{"User":"web"}`, a.Gzip(t), b.Zstd(t).Encrypt(t, kid, kek), secret, a.Gzip(t), b)
	var asked atomic.Int64
	req := request(t, r, m)
	req.KeySocket = keyHolder(t, &asked)
	var progress atomic.Int64
	req.Progress = func(Progress) { progress.Add(1) }
	if err := s.Warm(); err != nil {
		t.Fatal(err)
	}
	img, err := s.Pull(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Layers) != 5 || img.Config.Config.User != "web" || img.ManifestDigest != m || asked.Load() != 2 || progress.Load() < 10 {
		t.Errorf("%d layers, %d keys, %d times progress, %+v", len(img.Layers), asked.Load(), progress.Load(), img.Config)
	}
	dirs := map[string]bool{}
	for _, l := range img.Layers {
		dirs[l.Dir] = true
	}
	if len(dirs) != 5 {
		t.Errorf("repeated layers share a directory: %v", dirs)
	}
	if img.Layers[0].DiffID != a.DiffID || img.Layers[3].DiffID != a.DiffID || img.Layers[4].DiffID != b.DiffID {
		t.Error("layers are out of order")
	}
	if st, err := os.Stat(img.Layers[3].Dir + "/bin/su"); err != nil || st.Mode() != 0o755|os.ModeSetuid {
		t.Errorf("%v %v", st, err)
	}
	var x [4]byte
	if n, err := unix.Getxattr(img.Layers[1].Dir+"/opt", "trusted.overlay.opaque", x[:]); err != nil || string(x[:n]) != "y" {
		t.Errorf("opaque mark: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(img.Layers[1].Dir+"/etc/a", &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("whiteout: %v", err)
	}
	overlay(t, img)

	// Again: nothing is asked for. Another image of the same layers: only its
	// documents.
	blobs := r.Hits("blobs/" + string(a.Gzip(t).Descriptor.Digest))
	if again, err := s.Pull(t.Context(), req); err != nil || again != img {
		t.Error(err)
	}
	m2 := r.Image(t, "v2", `{}`, a.Gzip(t), c.Gzip(t))
	img2, err := s.Pull(t.Context(), request(t, r, m2))
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Hits("blobs/" + string(a.Gzip(t).Descriptor.Digest)); n != blobs || img2.Layers[0].Dir != img.Layers[0].Dir {
		t.Errorf("a layer that was there was pulled again")
	}
	// What was decrypted for one image is no other's, who names its content or its blob.
	if img2.Layers[1].Dir == img.Layers[2].Dir {
		t.Error("a plain layer is the one that another image has decrypted")
	}
	if _, err := s.Pull(t.Context(), request(t, r, r.Image(t, "v3", `{}`, secret))); err == nil {
		t.Error("an encrypted layer was given without its key")
	}
	clean(t, s, 6)
}

// overlay mounts the image and looks at the merged tree.
func overlay(t *testing.T, img *Image) {
	t.Helper()
	var lower []string
	for i := len(img.Layers) - 1; i >= 0; i-- {
		lower = append(lower, img.Layers[i].Dir)
	}
	dir := t.TempDir()
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Log("no overlayfs here: ", err)
		return
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if _, err := os.Stat(dir + "/etc/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("etc/a is not hidden: %v", err)
	}
	if b, err := os.ReadFile(dir + "/opt/b"); err != nil || string(b) != "B" {
		t.Errorf("%v", err)
	}
}

// clean checks that nothing but finished layers is left.
func clean(t *testing.T, s *Service, layers int) {
	t.Helper()
	if left, _ := os.ReadDir(s.path("staging")); len(left) != 0 {
		t.Errorf("left in staging: %v", left)
	}
	if have, _ := os.ReadDir(s.path("layers")); layers >= 0 && len(have) != layers {
		t.Errorf("%d layers, expected %d", len(have), layers)
	}
}

func TestPullFails(t *testing.T) {
	good := Tar(t, Entry{Name: "x", Data: strings.Repeat("x", 200_000)})
	enc := good.Gzip(t).Encrypt(t, "kbs:///default/key/1", kek)
	for name, c := range map[string]struct {
		layers []Layer
		prep   func(*Registry, *PullRequest)
		want   []string
	}{
		"wrong diffID": {[]Layer{good.Gzip(t), {Descriptor: good.Descriptor, Blob: good.Blob, DiffID: digest.FromBytes(nil)}}, nil, []string{"layer 2 of 2", "diffID", string(digest.FromBytes(nil)), string(good.DiffID)}},
		"cut layer": {[]Layer{good}, func(r *Registry, _ *PullRequest) {
			r.Replace("blobs/"+string(good.Descriptor.Digest), good.Blob[:1000])
		}, []string{"layer 1 of 1", "its manifest declares"}},
		"changed layer":      {[]Layer{good}, func(r *Registry, _ *PullRequest) { r.Replace("blobs/"+string(good.Descriptor.Digest), flip(good.Blob)) }, []string{"layer 1 of 1", "has digest"}},
		"no key holder":      {[]Layer{enc}, func(_ *Registry, q *PullRequest) { q.KeySocket = nil }, []string{"layer 1 of 1", "encrypted"}},
		"other key":          {[]Layer{good.Encrypt(t, "kbs:///default/key/2", make([]byte, 32))}, nil, []string{"denied by kbs: not-bound"}},
		"changed ciphertext": {[]Layer{{Descriptor: desc(enc, flip(enc.Blob)), Blob: flip(enc.Blob), DiffID: enc.DiffID}}, nil, []string{"layer 1 of 1"}},
		"no layers":          {nil, nil, []string{"lists 0 layers"}},
		"not found": {[]Layer{good}, func(r *Registry, q *PullRequest) {
			q.Image.Digest, q.ManifestDigest = "", digest.FromBytes([]byte("other"))
		}, []string{"404"}},
		"zip slip":      {[]Layer{Tar(t, Entry{Name: "../x"})}, nil, []string{`".." component`}},
		"escaping link": {[]Layer{Tar(t, Entry{Name: "l", Link: "/etc", Type: tar.TypeSymlink}, Entry{Name: "l/x"})}, nil, []string{"layer 1 of 1", "absolute symlink"}},
		"hangs": {[]Layer{good}, func(r *Registry, _ *PullRequest) {
			r.Blob = func(w http.ResponseWriter, q *http.Request, b []byte) bool {
				if len(b) < 1000 {
					return false
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(b)))
				_, _ = w.Write(b[:100])
				w.(http.Flusher).Flush()
				<-q.Context().Done()
				return true
			}
		}, []string{"layer 1 of 1", "stopped after 100 of"}},
		"no space": {[]Layer{Tar(t, Entry{Name: "big", Data: strings.Repeat("x", 300<<20)}).Zstd(t)}, nil, []string{"layer 1 of 1", "no space left", "256 MiB", "give the pod more memory"}},
		"window":   {[]Layer{longWindow(t)}, nil, []string{"layer 1 of 1", "window of 16777216 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRegistry(t)
			s := newService(t, Options{})
			req := request(t, r, r.Image(t, "v1", `{}`, c.layers...))
			var asked atomic.Int64
			req.KeySocket = keyHolder(t, &asked)
			if c.prep != nil {
				c.prep(r, &req)
			}
			_, err := s.Pull(t.Context(), req)
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("%v, want %q", err, w)
				}
			}
			clean(t, s, -1)
		})
	}
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

func desc(l Layer, blob []byte) manifest.Descriptor {
	d := l.Descriptor
	d.Digest = digest.FromBytes(blob)
	return d
}

func longWindow(t testing.TB) Layer {
	t.Helper()
	// A frame header alone: window descriptor 14<<3 is 16 MiB.
	l := Tar(t, Entry{Name: "x"})
	l.Blob = append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 14 << 3}, 1, 0, 0)
	l.Descriptor.MediaType += "+zstd"
	l.Descriptor.Digest, l.Descriptor.Size = digest.FromBytes(l.Blob), int64(len(l.Blob))
	return l
}

// A mirror with wrong bytes is passed over; the right ones are found elsewhere.
func TestBadMirror(t *testing.T) {
	good, bad := NewRegistry(t), NewRegistry(t)
	l := Tar(t, Entry{Name: "x", Data: strings.Repeat("x", 200_000)})
	m := good.Image(t, "v1", `{}`, l)
	bad.Image(t, "v1", `{}`, l)
	bad.Replace("blobs/"+string(l.Descriptor.Digest), flip(l.Blob))
	s := newService(t, Options{})
	req := request(t, good, m)
	req.Config.Conf.Registries[0].Mirrors = []registry.Mirror{{Location: bad.Host(), Insecure: true}}
	if _, err := s.Pull(t.Context(), req); err != nil {
		t.Error(err)
	}
	clean(t, s, 1)
}

func TestSingleFlightAndCancel(t *testing.T) {
	r := NewRegistry(t)
	l := Tar(t, Entry{Name: "x", Data: strings.Repeat("x", 200_000)})
	m1, m2 := r.Image(t, "v1", `{}`, l), r.Image(t, "v2", `{"User":"1"}`, l)
	release := make(chan struct{})
	r.Blob = func(w http.ResponseWriter, q *http.Request, b []byte) bool {
		if len(b) > 1000 {
			<-release
		}
		return false
	}
	s := newService(t, Options{})
	req := func(m digest.Digest) PullRequest {
		q := request(t, r, m)
		q.Config.Times = registry.Timeouts{}
		return q
	}
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 4)
	go func() { _, err := s.Pull(ctx, req(m1)); errs <- err }() // gives up; the others go on
	for _, m := range []digest.Digest{m1, m2, m2} {
		go func() { _, err := s.Pull(t.Context(), req(m)); errs <- err }()
	}
	waiting := func() (n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.layers {
			n += f.waiting
		}
		return n
	}
	for end := time.Now().Add(20 * time.Second); waiting() < 4; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d pulls wait for the layer, want 4", waiting())
		}
	}
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled pull: %v", err)
	}
	close(release)
	for range 3 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := r.Hits("blobs/" + string(l.Descriptor.Digest)); n != 1 {
		t.Errorf("layer was pulled %d times", n)
	}
	clean(t, s, 1)
}

func TestCancelled(t *testing.T) {
	r := NewRegistry(t)
	l := Tar(t, Entry{Name: "x", Data: strings.Repeat("x", 200_000)})
	m := r.Image(t, "v1", `{}`, l)
	r.Blob = func(w http.ResponseWriter, q *http.Request, b []byte) bool {
		if len(b) > 1000 {
			<-q.Context().Done()
		}
		return false
	}
	s := newService(t, Options{})
	q := request(t, r, m)
	q.Config.Times = registry.Timeouts{}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := s.Pull(ctx, q); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("took %v", d)
	}
	clean(t, s, 0)
}

// A parser that was taken over can only lie about its layer: the coordinator
// checks manifest and config itself.
func TestLyingParser(t *testing.T) {
	s := newService(t, Options{})
	r := NewRegistry(t)
	m := r.Image(t, "v1", `{}`, Tar(t, Entry{Name: "x"}))
	other := r.Image(t, "v2", `{}`, Tar(t, Entry{Name: "evil"}))
	s.opt.Start = func(name, _ string, files []*os.File) (Process, error) {
		fd, err := unix.Dup(int(files[0].Fd()))
		if err != nil {
			return nil, err
		}
		c, err := unixConn(os.NewFile(uintptr(fd), ""))
		if err != nil {
			return nil, err
		}
		p := &fakeProcess{done: make(chan struct{})}
		go func() {
			defer close(p.done)
			defer c.Close()
			var j job
			if _, err := receive(c, &j); err != nil {
				return
			}
			_ = send(c, &reply{Done: true, Manifest: r.Get("manifests/" + string(other)), Config: []byte("{}")})
			_, _ = receive(c, &j)
		}()
		return p, nil
	}
	_, err := s.Pull(t.Context(), request(t, r, m))
	var mm *digest.MismatchError
	if !errors.As(err, &mm) || mm.Expected != m {
		t.Errorf("%v", err)
	}
}

type fakeProcess struct{ done chan struct{} }

func (p *fakeProcess) Done() <-chan struct{} { return p.done }
func (p *fakeProcess) Kill()                 {}
func (p *fakeProcess) ExitCode() int         { return 0 }

func BenchmarkPull10MB(b *testing.B) {
	r := NewRegistry(b)
	var entries []Entry
	for i := range 500 {
		entries = append(entries, Entry{Name: fmt.Sprintf("usr/lib/d%d/f%d", i/20, i), Data: strings.Repeat(fmt.Sprint("some text ", i*7919, "\n"), 1500)})
	}
	l := Tar(b, entries...).Gzip(b).Encrypt(b, "kbs:///default/key/1", kek)
	m := r.Image(b, "v1", `{}`, l)
	var asked atomic.Int64
	for b.Loop() {
		b.StopTimer()
		s := newService(b, Options{Warm: true})
		if err := s.Warm(); err != nil {
			b.Fatal(err)
		}
		req := request(b, r, m)
		req.KeySocket = keyHolder(b, &asked)
		b.StartTimer()
		if _, err := s.Pull(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func mustConn(t testing.TB, f *os.File) *net.UnixConn {
	t.Helper()
	c, err := unixConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPullsSideBySide: containers of a pod start at once, each with a parser.
func TestPullsSideBySide(t *testing.T) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newService(t, Options{Hosts: hosts, ResolvConf: hosts})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := s.refresh(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
