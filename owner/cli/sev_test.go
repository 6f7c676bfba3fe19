package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/test/fakesev"
)

// TestSEVSecret: a session for a platform, a launch there, and its secret, by hand and
// by the service; the platform and the launch are a fake processor's.
func TestSEVSecret(t *testing.T) {
	p, err := fakesev.New()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	chain, vendors, session := file("chain", p.Chain), file("vendors", p.Vendors), filepath.Join(dir, "session")
	args := []string{"sev", "session", "--chain", chain, "--ask-ark", vendors, "--tee", "sev-es", "--service", "http://owner.example:8445", "--out", session}
	args = slices.Clip(args)
	if code, _, errs := coffer(t, args...); code != 0 {
		t.Fatal(errs)
	}
	if fi, err := os.Stat(filepath.Join(session, sevKeysFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the keys can be read by others (%v)", err)
	}
	b, err := os.ReadFile(filepath.Join(session, sevLaunchFile))
	if err != nil {
		t.Fatal(err)
	}
	spec := launch.Spec{TEE: launch.SEVES, Kernel: launch.File{Path: "k"}, TEEFirmware: launch.File{Path: "f"}, VCPUs: 1, MemoryMiB: 256}
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	if err := spec.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(spec.SNP.DHCert, spec.SNP.Session, uint32(spec.PolicyOf())); err != nil {
		t.Fatal(err)
	}
	digest := bytes.Repeat([]byte{7}, 32)
	measured := func(digest []byte) []byte {
		t.Helper()
		m, nonce, err := p.Measure(digest)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(launch.SEVMeasurement{APIMajor: p.Major, APIMinor: p.Minor, Build: p.Build, Policy: 0x3f, Measure: m, Nonce: nonce})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const guid = "736869e5-84f0-4973-92ec-06879ce3da0b"
	entry := guid + "=" + file("disk.key", []byte("correct horse"))
	answer := []string{"--session", session, "--digest", hex.EncodeToString(digest), "--entry", entry}
	secret := slices.Clip(append([]string{"sev", "secret"}, answer...))
	good := file("good", measured(digest))
	code, text, errs := coffer(t, append(secret, "--measurement", good)...)
	if code != 0 {
		t.Fatal(errs)
	}
	inject := func(text []byte) {
		t.Helper()
		s, err := launch.ParseSEVSecret(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Inject(s.Header, s.Secret); err != nil || !bytes.Contains(got, []byte("correct horse")) {
			t.Errorf("%q, %v", got, err)
		}
	}
	inject([]byte(text))

	other := file("other", measured(bytes.Repeat([]byte{8}, 32)))
	for want, c := range map[string]struct {
		code int
		args []string
	}{
		"not that of an expected launch": {ExitDenied, append(secret, "--measurement", other)},
		"--measurement is missing":       {ExitUsage, secret},
		"sev measurement":                {ExitInput, append(secret, "--measurement", chain)},
		"no GUID":                        {ExitInput, append(secret, "--measurement", good, "--entry", "x="+chain)},
		"not GUID=FILE":                  {ExitUsage, append(secret, "--measurement", good, "--entry", guid)},
		"not 64 hex digits":              {ExitUsage, append(secret, "--measurement", good, "--digest", "5634bb")},
		"older than 0.24.16":             {ExitInput, append(secret, "--measurement", good, "--min-firmware", "0.24.16")},
		"not of the form":                {ExitUsage, append(secret, "--measurement", good, "--min-firmware", "0.24")},
		"--digest is missing":            {ExitUsage, []string{"sev", "secret", "--measurement", good, "--session", session, "--entry", entry}},
		"no such file":                   {ExitInput, append(secret, "--measurement", good, "--session", dir)},
		"file exists":                    {ExitInput, args},
		"certificates of AMD":            {ExitInput, append(args, "--ask-ark", chain, "--out", filepath.Join(dir, "none"))},
		"bit 2 asks":                     {ExitUsage, append(args, "--policy", "0x3b")},
		"debug":                          {ExitInput, append(args, "--policy", "0x3e", "--out", filepath.Join(dir, "none"))},
		"sev or sev-es":                  {ExitUsage, append(args, "--tee", "snp")},
	} {
		if code, out, errs := coffer(t, c.args...); code != c.code || !strings.Contains(errs, want) {
			t.Errorf("%d %s %s, want %d %q", code, out, errs, c.code, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a refusal left a folder")
	}
	t.Run("serve", func(t *testing.T) {
		a := &sevAnswer{session: session, digests: []string{hex.EncodeToString(digest)}, entries: []string{entry}}
		if err := a.load(nil); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		was := repeatFor
		repeatFor = time.Second
		defer func() { repeatFor = was }()
		var log safeBuffer
		ended := make(chan error, 1)
		go func() { ended <- serveSecrets(ctx, l, a, 1, &log) }()
		post := func(b []byte) (int, []byte) {
			t.Helper()
			resp, err := http.Post("http://"+l.Addr().String(), "application/json", bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, text
		}
		if code, text := post(measured(bytes.Repeat([]byte{8}, 32))); code != http.StatusForbidden {
			t.Errorf("another launch: %d %s", code, text)
		}
		for _, bad := range [][]byte{[]byte("{"), make([]byte, 1<<20)} {
			if code, text := post(bad); code != http.StatusBadRequest {
				t.Errorf("no measurement: %d %s", code, text)
			}
		}
		this := measured(digest)
		code, text := post(this)
		if code != http.StatusOK {
			t.Fatalf("%d %s", code, text)
		}
		inject(text)
		if code, again := post(this); code != http.StatusOK || !bytes.Equal(again, text) {
			t.Errorf("the same launch once more: %d %s", code, again)
		}
		if code, text := post(measured(digest)); code != http.StatusForbidden {
			t.Errorf("a further launch: %d %s", code, text)
		}
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v, its one secret handed out", err)
		}
		if s := log.String(); !strings.Contains(s, "refused 127.0.0.1") || !strings.Contains(s, "0 left") || strings.Contains(s, "horse") {
			t.Errorf("log: %s", s)
		}
	})
}

// safeBuffer is a buffer for several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
