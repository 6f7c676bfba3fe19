package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/launch"
)

const (
	plainImage     = "registry.example/coffer/bench:plain"
	smallImage     = "registry.example/coffer/demo:plain" // a layer of 3.5 MB; for the process TEE
	encryptedImage = "registry.example/coffer/bench:encrypted"
	keyPath        = "default/key/bench"
	secretPath     = "default/demo/secret"
)

// podYAML is the pod of every run: an encrypted image, and a workload that
// prints a line, fetches a secret and stays.
const podYAML = `apiVersion: v1
kind: Pod
metadata:
  name: bench
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: ` + encryptedImage + `
    env:
    - name: STAY
      value: "1"
`

// services are the registry and the trustee of all runs. They run throughout:
// what is measured is a pod, not a trustee's first start.
type services struct {
	c    *config
	cmds []*exec.Cmd
}

func (s *services) stop() {
	for _, c := range s.cmds {
		_ = c.Process.Signal(syscall.SIGTERM)
		t := time.AfterFunc(15*time.Second, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		t.Stop()
	}
}

// start runs a service and decodes the first line it prints into v.
func (s *services) start(v any, name string, args ...string) error {
	cmd := s.c.command(name, args...)
	log, err := os.Create(s.c.file(name + ".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmds = append(s.cmds, cmd)
	br := bufio.NewReader(out)
	line, err := br.ReadBytes('\n')
	if err != nil {
		b, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%s did not start: %w\n%s", name, err, b)
	}
	go func() { _, _ = io.Copy(io.Discard, br) }()
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("reading the first line of %s: %w", name, err)
	}
	return nil
}

// setUp starts registry and trustee, encrypts the image, seals the pod and gives
// the trustee key and secret for it.
func (s *services) setUp() error {
	c := s.c
	var m struct{ Address, Registries string }
	if err := s.start(&m, "test-mirror", "--layouts", c.layouts, "--writable", c.file("registry"), "--listen", "127.0.0.1:0"); err != nil {
		return err
	}
	if err := os.WriteFile(c.file("registries.conf"), []byte(m.Registries), 0o600); err != nil {
		return err
	}
	var t struct {
		URL string `json:"url"`
	}
	if err := s.start(&t, "coffer-trustee", "serve", "--state", c.file("owner/trustee"), "--listen", "127.0.0.1:0",
		"--simulated-namespace", "sim", "--output", "json"); err != nil {
		return err
	}
	from := plainImage
	if c.process {
		from = smallImage
	}
	if _, err := c.coffer("image", "encrypt", "--registries", c.file("registries.conf"), "--key-id", "kbs:///"+keyPath,
		"--key-file", c.file("image.key"), from, encryptedImage); err != nil {
		return err
	}
	if err := os.WriteFile(c.file("pod.yaml"), []byte(podYAML), 0o600); err != nil {
		return err
	}
	c.pod = c.file("sealed.yaml")
	args := []string{"seal", "--registries", c.file("registries.conf"), "--out", c.pod, c.file("pod.yaml"), "--output", "json"}
	if c.process {
		args = append(args, "--tee", string(launch.SGXSim))
	} else {
		args = append(args, "--tee", string(launch.TPMSim), "--platform", c.platform)
	}
	if c.memory != 0 {
		args = append(args, "--memory", fmt.Sprint(c.memory))
	}
	out, err := c.coffer(args...)
	if err != nil {
		return err
	}
	var sealed struct {
		Seal string `json:"seal"`
	}
	if err := json.Unmarshal(out, &sealed); err != nil || sealed.Seal == "" {
		return fmt.Errorf("coffer seal named no seal: %w", err)
	}
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return err
	}
	if err := os.WriteFile(c.file("secret.txt"), []byte(hex.EncodeToString(b[:])), 0o600); err != nil {
		return err
	}
	if _, err := c.coffer("secret", "put", keyPath, "--for", sealed.Seal, "--from-file", c.file("image.key")); err != nil {
		return err
	}
	_, err = c.coffer("secret", "put", secretPath, "--for", sealed.Seal, "--from-file", c.file("secret.txt"))
	return err
}

func (c *config) file(name string) string { return filepath.Join(c.dir, name) }

// command is one of Coffer's, with state of its own and ended with this process.
func (c *config) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Env = append(os.Environ(), "COFFER_STATE="+c.file("owner"), "COFFER_RUN_DIR="+c.file("run"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return cmd
}

// coffer runs a command to its end and gives its output.
func (c *config) coffer(args ...string) ([]byte, error) {
	out, err := c.command("coffer", args...).Output()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("coffer %s: %w\n%s", args[0], err, ee.Stderr)
	}
	return out, err
}
