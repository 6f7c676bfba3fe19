package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// reaper ends every child at the demo's end.
type reaper struct{ cmds []*exec.Cmd }

func (r *reaper) add(c *exec.Cmd) { r.cmds = append(r.cmds, c) }

func (r *reaper) killAll() {
	for _, c := range r.cmds {
		_ = c.Process.Signal(syscall.SIGTERM)
		stop := time.AfterFunc(15*time.Second, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		stop.Stop()
	}
}

func (d *demo) environ() []string {
	return append(os.Environ(), "COFFER_STATE="+filepath.Join(d.dir, "owner"), "COFFER_RUN_DIR="+filepath.Join(d.dir, "run"))
}

// start runs a service and gives the first line it prints.
func (d *demo) start(r *reaper, name string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(d.bin, name), args...)
	cmd.Env = d.environ()
	log, err := os.Create(filepath.Join(d.dir, name+".log"))
	if err != nil {
		return "", err
	}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	r.add(cmd)
	br := bufio.NewReader(out)
	line, err := br.ReadString('\n')
	if err != nil {
		b, _ := os.ReadFile(log.Name())
		return "", fmt.Errorf("%s did not start: %w\n%s", name, err, b)
	}
	go func() { _, _ = io.Copy(io.Discard, br) }()
	return line, nil
}

// result is how a coffer command ended.
type result struct {
	stdout, stderr string
	code           int
}

// coffer runs a command, shows it and what it says, and waits for its end.
func (d *demo) coffer(ctx context.Context, args ...string) (*result, error) {
	fmt.Printf("      $ coffer %s\n", strings.Join(d.short(args), " "))
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "coffer"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Env = d.environ()
	var out, errb bytes.Buffer
	cmd.Stdout = io.MultiWriter(&out, &indent{w: os.Stdout})
	cmd.Stderr = io.MultiWriter(&errb, &indent{w: os.Stdout})
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return nil, err
	}
	return &result{out.String(), errb.String(), cmd.ProcessState.ExitCode()}, nil
}

// must is coffer for commands that have to succeed.
func (d *demo) must(ctx context.Context, args ...string) (*result, error) {
	r, err := d.coffer(ctx, args...)
	if err == nil && r.code != 0 {
		err = fmt.Errorf("coffer %s ended with %d", args[0], r.code)
	}
	return r, err
}

// short leaves the demo's folder out of what is shown.
func (d *demo) short(args []string) []string {
	var s []string
	for _, a := range args {
		s = append(s, strings.ReplaceAll(strings.ReplaceAll(a, d.dir+"/", ""), d.bin+"/", ""))
	}
	return s
}

// indent sets every line in.
type indent struct {
	w   io.Writer
	mu  sync.Mutex
	mid bool
}

func (i *indent) Write(b []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, l := range bytes.SplitAfter(b, []byte("\n")) {
		if len(l) == 0 {
			continue
		}
		if !i.mid {
			_, _ = io.WriteString(i.w, "      | ")
		}
		_, _ = i.w.Write(l)
		i.mid = l[len(l)-1] != '\n'
	}
	return len(b), nil
}
