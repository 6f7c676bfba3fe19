// Command demo is `make demo`: Coffer's main job on this machine, with real
// parts, in front of the reader's eyes. It encrypts an image, binds its key and
// a secret to a sealed pod, runs the pod in a measured (here: simulated) TEE,
// looks for the plaintext everywhere the host can look, and then plays three
// hostile hosts, each of which must be refused.
//
// It exits with 0 only if everything happened as it says.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type demo struct {
	bin      string // folder of the binaries
	dir      string // everything of this demo; removed at the end
	platform string // platform.json
	layouts  string // stand-in images
	tee      string
	keep     bool

	mirrorAddr string
	trusteeURL string
	seal       string
	key        []byte // the image's key
	secret     []byte // the workload's secret
}

func main() {
	d := &demo{}
	flag.StringVar(&d.bin, "bin", "bin", "folder of the binaries")
	flag.StringVar(&d.platform, "platform", "", "platform.json of coffer guest build")
	flag.StringVar(&d.layouts, "layouts", "", "folder of the demo's image, as test/standins builds it")
	flag.StringVar(&d.tee, "tee", "tpm-sim", "TEE to run in")
	flag.BoolVar(&d.keep, "keep", false, "keep the demo's files")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	began := time.Now()
	err := d.run(ctx)
	cancel()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
	fmt.Printf("\nAll as promised, in %s.\n", time.Since(began).Round(time.Second))
}

// step is one part of the demo: what it does and why, in one line.
type step struct {
	title string
	why   string
	do    func(context.Context) error
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.bin, err = filepath.Abs(d.bin); err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "coffer-demo-"); err != nil {
		return err
	}
	var children reaper
	defer func() {
		children.killAll()
		if d.keep {
			fmt.Println("files kept in", d.dir)
			return
		}
		_ = os.RemoveAll(d.dir)
	}()
	steps := []step{
		{"Start a registry and a trustee", "the registry stands for any public one; the trustee is the owner's and holds all secrets",
			func(ctx context.Context) error { return d.startServices(ctx, &children) }},
		{"Encrypt the image", "whoever stores or carries it, registry and node included, gets ciphertext", d.encryptImage},
		{"Seal the pod", "one signed statement of what this pod may run; the TEE's evidence will name it", d.sealPod},
		{"Give the trustee the key and a secret, for this sealed pod only", "nothing else can ever get them", d.putSecrets},
		{"Run the pod in the TEE", "it gets the image key and the secret only because it proves what it booted and what it may run",
			func(ctx context.Context) error { return d.runPod(ctx, &children) }},
		{"Refusal 1: a changed initrd", "the node boots a guest with code of its own", d.refuseInitrd},
		{"Refusal 2: the genuine guest with another initdata", "the node keeps the guest but rewrites what the pod may run", d.refuseInitdata},
	}
	for i, s := range steps {
		fmt.Printf("\n[%d/%d] %s\n      (%s)\n", i+1, len(steps), s.title, s.why)
		began := time.Now()
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
		fmt.Printf("      done in %.1f s\n", time.Since(began).Seconds())
	}
	return nil
}
