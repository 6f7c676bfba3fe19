// Command demoapp is the workload of the demo and of the benchmarks. It fetches
// a secret from the guest's REST endpoint and prints the SHA-256 of it, never
// the secret.
//
//	RESOURCE  what to fetch (default/demo/secret); "none" fetches nothing
//	STAY=1    stay until SIGTERM
//
// The first line is printed before anything else, so that a benchmark can time
// the start of the process. It exits with 3 where the secret is refused.
//
// Trust zone: a workload of the tests.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// base is where the guest serves resources to its workloads.
const base = "http://127.0.0.1:8006/cdh/resource/"

func main() {
	fmt.Println("coffer-demo: started")
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	resource := os.Getenv("RESOURCE")
	if resource == "" {
		resource = "default/demo/secret"
	}
	if resource != "none" {
		b, err := fetch(ctx, base+resource)
		if err != nil {
			fmt.Fprintln(os.Stderr, "coffer-demo:", err)
			os.Exit(3)
		}
		fmt.Printf("secret sha256 %x\n", sha256.Sum256(b))
	}
	if os.Getenv("STAY") == "1" {
		<-ctx.Done()
		fmt.Println("coffer-demo: told to stop")
	}
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", url, resp.Status, b)
	}
	return b, nil
}
