package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/sev"
)

func newSEVServe() *cobra.Command {
	a := new(sevAnswer)
	var listen, cert, key string
	var count int
	cmd := &cobra.Command{
		Use: "serve --session DIR --digest HEX --entry GUID=FILE", Short: "Answer launches' measurements as they come", Args: noArgs,
		Long: `Listen for the node (secret_service of the launch spec) and answer an expected launch's
measurement with the secret, as coffer sev secret does. It ends after --count secrets.

The packet can be read by the platform's secure processor alone, so that HTTP protects the
secret as well as HTTPS does; --tls-cert and --tls-key are for networks that demand it.

Exit codes: 0 the secrets are handed out; 120 an input is wrong; 124 stopped before that; 2 a flag is wrong.`,
		Example: "  coffer sev serve --session session --digest 5634bb... --entry 736869e5-84f0-4973-92ec-06879ce3da0b=disk.key --listen 0.0.0.0:8445",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 1 || (cert == "") != (key == "") {
				return Exit(ExitUsage, errors.New("--count is at least 1; --tls-cert and --tls-key: both or none"))
			}
			if err := a.load(cmd.InOrStdin()); err != nil {
				return err
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return Exit(ExitUsage, fmt.Errorf("--listen: %w", err))
			}
			defer l.Close()
			if cert != "" {
				c, err := tls.LoadX509KeyPair(cert, key)
				if err != nil {
					return Exit(ExitInput, fmt.Errorf("--tls-cert, --tls-key: %w", err))
				}
				l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS13})
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "listening on %s\n", l.Addr())
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return Exit(ExitTimeout, serveSecrets(ctx, l, a, count, cmd.ErrOrStderr()))
		},
	}
	a.flags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&listen, "listen", "127.0.0.1:8445", "`address` to listen on")
	fl.IntVar(&count, "count", 1, "how many launches may have the secret")
	fl.StringVar(&cert, "tls-cert", "", "certificate `file` (PEM), with --tls-key")
	fl.StringVar(&key, "tls-key", "", "key `file` (PEM)")
	return cmd
}

// secretServer answers measurements, one at a time, and counts the secrets.
type secretServer struct {
	answer func([]byte) (*launch.SEVSecret, error)
	log    io.Writer
	done   chan struct{} // closed when no secret is left

	mu   sync.Mutex
	left int
	// given are the packets that were made, by measurement: a launch whose answer was
	// lost gets the same one again.
	given map[string]*launch.SEVSecret
}

// repeatFor is how long a launch whose answer was lost may ask again, once no secret is
// left for others.
var repeatFor = 30 * time.Second

// serveSecrets serves until count secrets are handed out; an error if ctx ends first.
func serveSecrets(ctx context.Context, l net.Listener, a *sevAnswer, count int, log io.Writer) error {
	s := &secretServer{answer: a.answer, log: log, left: count, done: make(chan struct{}), given: map[string]*launch.SEVSecret{}}
	srv := &http.Server{Handler: s, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case <-s.done:
		select {
		case <-time.After(repeatFor):
		case <-ctx.Done():
		}
	case <-ctx.Done():
	case err := <-failed:
		return err
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = srv.Shutdown(end) // the last answer gets out
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left > 0 {
		return fmt.Errorf("stopped with %d secrets not handed out", s.left)
	}
	return nil
}

func (s *secretServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const most = 16 << 10 // bytes of a measurement, which has about 300
	if r.Method != http.MethodPost {
		http.Error(w, "post a measurement", http.StatusMethodNotAllowed)
		return
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		http.Error(w, "no measurement", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if secret := s.given[string(b)]; secret != nil {
		s.write(w, r, secret)
		return
	}
	if s.left == 0 {
		http.Error(w, "no secret is left", http.StatusForbidden)
		return
	}
	secret, err := s.answer(b)
	if err != nil {
		fmt.Fprintf(s.log, "refused %s: %v\n", r.RemoteAddr, err)
		code := http.StatusBadRequest
		if errors.Is(err, sev.ErrMeasurement) {
			code = http.StatusForbidden
		}
		http.Error(w, err.Error(), code)
		return
	}
	s.left--
	s.given[string(b)] = secret
	fmt.Fprintf(s.log, "the secret goes to %s; %d left\n", r.RemoteAddr, s.left)
	s.write(w, r, secret)
	if s.left == 0 {
		close(s.done)
	}
}

func (s *secretServer) write(w http.ResponseWriter, r *http.Request, secret *launch.SEVSecret) {
	w.Header().Set("Content-Type", "application/json")
	if err := PrintJSON(w, secret); err != nil {
		fmt.Fprintf(s.log, "answering %s: %v\n", r.RemoteAddr, err)
	}
}
