package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// The control socket lets other coffer commands of the same user speak with a
// running coffer run. The run directory's mode (0700) is the access control.

// ExecRequest asks for a process in a container.
type ExecRequest struct {
	Container string   `json:"container"` // "" if the pod has only one
	Args      []string `json:"args"`
	TTY       bool     `json:"tty"`
}

// ExecResponse names the process for the agent's stream and wait calls.
type ExecResponse struct {
	ContainerID string `json:"container_id"`
	ExecID      string `json:"exec_id"`
}

type controlError struct {
	Error string `json:"error"`
	Code  int    `json:"code,omitempty"`
}

// control is what the server needs of a run.
type control struct {
	state func() State
	stop  func(now bool)
	exec  func(context.Context, ExecRequest) (ExecResponse, error)
}

// serveControl listens in dir until the returned function is called.
func serveControl(dir string, c control) (func(), error) {
	l, err := net.Listen("unix", filepath.Join(dir, controlSocket))
	if err != nil {
		return nil, fmt.Errorf("listening on the control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", func(w http.ResponseWriter, _ *http.Request) { reply(w, c.state(), nil) })
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		c.stop(r.URL.Query().Get("now") == "true")
		reply(w, struct{}{}, nil)
	})
	mux.HandleFunc("POST /v1/exec", func(w http.ResponseWriter, r *http.Request) {
		var req ExecRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&req); err != nil {
			reply(w, nil, fmt.Errorf("reading the request: %w", err))
			return
		}
		resp, err := c.exec(r.Context(), req)
		reply(w, resp, err)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }()
	return func() { _ = srv.Close(); _ = os.Remove(filepath.Join(dir, controlSocket)) }, nil
}

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		v = controlError{Error: err.Error(), Code: errCode(err)}
	}
	_ = json.NewEncoder(w).Encode(v)
}

// callControl asks the coffer run that owns dir.
func callControl(ctx context.Context, dir, method, path string, in, out any) error {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(dir, controlSocket))
	}}
	defer tr.CloseIdleConnections()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://coffer"+path, body)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return errors.Join(errNotRunning, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e controlError
		if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil {
			return fmt.Errorf("the running coffer answered %s", resp.Status)
		}
		return &RemoteError{Msg: e.Error, Code: e.Code}
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(out)
}

// RemoteError is an error of another coffer process, with its exit code.
type RemoteError struct {
	Msg  string
	Code int
}

func (e *RemoteError) Error() string { return e.Msg }

// Stop ends a running pod: SIGTERM and the grace period, or at once with now.
// It returns when the run is gone.
func Stop(ctx context.Context, dir string, now bool) error {
	path := "/v1/stop"
	if now {
		path += "?now=true"
	}
	var out struct{}
	if err := callControl(ctx, dir, http.MethodPost, path, nil, &out); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the pod to end: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
