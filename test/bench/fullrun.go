package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/nodeapi"
)

type phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// sample is one coffer run.
type sample struct {
	total       float64
	phases      []phase // of coffer run, one after the other
	guest       []phase // from the console, some side by side
	attestation int
}

// until sums the phases up to and with name.
func (s *sample) until(name string) float64 {
	var sum float64
	for _, p := range s.phases {
		if sum += p.Seconds; p.Name == name {
			return sum
		}
	}
	return 0
}

// fullRun starts coffer run and takes the time to the workload's first line.
// inspect, if set, sees the console some seconds later, when a debug image has
// said what its processes weigh; such a guest gets no secret.
func (c *config) fullRun(i int, inspect func(console string) error, extra ...string) (*sample, error) {
	timings := c.file(fmt.Sprintf("timings-%d.json", i))
	args := append([]string{"run", "--tee", "tpm-sim", "--platform", c.platform, "--timings", timings,
		"--registries", c.file("registries.conf"), "--memory", fmt.Sprint(c.memory), "--cpus", fmt.Sprint(c.cpus)}, extra...)
	cmd := c.command("coffer", append(args, c.pod)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := time.AfterFunc(120*time.Second, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	br := bufio.NewReader(out)
	line, rerr := br.ReadString('\n')
	s := &sample{total: time.Since(began).Seconds()}
	if rerr == nil && inspect == nil {
		_, rerr = br.ReadString('\n') // the secret came as well
	}
	if inspect != nil {
		time.Sleep(4 * time.Second)
	}
	console, cerr := c.console()
	go func() { _, _ = io.Copy(io.Discard, br) }()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	if rerr != nil {
		return nil, fmt.Errorf("no lines of the workload (%q): %w\n%s", line, rerr, errs.String())
	}
	if cerr != nil {
		return nil, cerr
	}
	if c.keep {
		_ = os.WriteFile(c.file(fmt.Sprintf("console-%d.log", i)), []byte(console), 0o600)
	}
	b, err := os.ReadFile(timings)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &s.phases); err != nil {
		return nil, err
	}
	s.guest, s.attestation = readConsole(console)
	if inspect != nil {
		return s, inspect(console)
	}
	return s, nil
}

// console reads the console of the one pod that runs.
func (c *config) console() (string, error) {
	logs, err := filepath.Glob(filepath.Join(c.file("run"), "*", nodeapi.ConsoleLog))
	if err != nil || len(logs) != 1 {
		return "", fmt.Errorf("found %d consoles, want one", len(logs))
	}
	b, err := os.ReadFile(logs[0])
	return string(b), err
}

// guestPhases are what the guest's processes say on the console: a message and
// the names of its durations.
var guestPhases = []struct {
	msg, key, name string
}{
	{"attested", "duration", "auth request to token"},
	{"image ready", "duration", "image: all"},
	{"image ready", "resolve", "image: manifest and config"},
	{"image ready", "key", "image: waiting for the layer key"},
	{"image ready", "fetch", "image: waiting for the registry (pull)"},
	{"image ready", "decrypt", "image: decrypting"},
	{"image ready", "unpack", "image: decompressing, tar, handing over"},
	{"container created", "duration", "building the container beyond the image"},
	{"container started", "duration", "starting the container"},
}

// readConsole finds the phases, and how often the guest has attested.
func readConsole(text string) (phases []phase, attestations int) {
	for l := range strings.Lines(text) {
		if strings.Contains(l, `msg=attested `) {
			attestations++
		}
		for _, p := range guestPhases {
			if !strings.Contains(l, "msg="+p.msg+" ") && !strings.Contains(l, `msg="`+p.msg+`"`) {
				continue
			}
			_, rest, ok := strings.Cut(l, " "+p.key+"=")
			if !ok {
				continue
			}
			if d, err := time.ParseDuration(strings.Fields(rest)[0]); err == nil {
				phases = append(phases, phase{p.name, d.Seconds()})
			}
		}
	}
	return phases, attestations
}

var pssLine = regexp.MustCompile(`msg="guest memory" .*pss_kib=(\d+)`)

// debugYAML is the pod whose guest says what it weighs. No trustee gives a debug
// guest a key or a secret, so the image is the plain one; the first container
// asks for a secret all the same, so that every process of the guest has run,
// and the second one stays.
const debugYAML = `apiVersion: v1
kind: Pod
metadata:
  name: bench-debug
spec:
  restartPolicy: Never
  containers:
  - name: asks
    image: ` + plainImage + `
  - name: stays
    image: ` + plainImage + `
    env:
    - name: RESOURCE
      value: none
    - name: STAY
      value: "1"
`

// measurePSS runs the debug image once: only that one says on the console what
// its processes weigh, one second after the first container has started.
func (c *config) measurePSS() (kib int, err error) {
	debug := *c
	debug.pod = c.file("debug.yaml")
	if err := os.WriteFile(debug.pod, []byte(debugYAML), 0o600); err != nil {
		return 0, err
	}
	_, err = debug.fullRun(1000, func(console string) error {
		m := pssLine.FindStringSubmatch(console)
		if m == nil {
			return errors.New("the debug guest did not report its memory")
		}
		kib, err = strconv.Atoi(m[1])
		return err
	}, "--debug-image")
	return kib, err
}
