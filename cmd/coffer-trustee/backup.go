package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/server"
)

// storeFlags are those by which backup and restore find a store.
func storeFlags(f *flag.FlagSet) *server.Config {
	c := &server.Config{Now: time.Now, Log: slog.New(slog.NewJSONHandler(os.Stderr, nil))}
	f.StringVar(&c.State, "state", "", "folder of all state (default $COFFER_STATE/trustee, or ~/.local/share/coffer/trustee)")
	databaseFlags(f, c)
	return c
}

func databaseFlags(f *flag.FlagSet, c *server.Config) {
	f.StringVar(&c.Database, "database", "", "connection string of the PostgreSQL database that replicas share, without a password (default: an embedded store in --state)")
	f.StringVar(&c.EnvelopeKey, "envelope-key", "", "file of the key that unlocks the store (default: envelope.key in --state)")
	f.StringVar(&c.KeyService, "key-service", "", keyServiceHelp)
	f.StringVar(&c.OldEnvelopeKey, "old-envelope-key", "", "file of the key of before, under which values may lie still (coffer-trustee rewrap)")
	f.StringVar(&c.OldKeyService, "old-key-service", "", "key service that unwraps it")
}

// oneFile parses and gives the one argument.
func oneFile(f *flag.FlagSet, c *server.Config, args []string) (string, error) {
	if err := f.Parse(args); err != nil {
		return "", err
	}
	if f.NArg() != 1 {
		return "", fmt.Errorf("%s takes one argument, a file", f.Name())
	}
	if c.State == "" {
		var err error
		if c.State, err = defaultState(); err != nil {
			return "", err
		}
	}
	return f.Arg(0), nil
}

// backup writes a backup to a file that does not exist yet.
func backup(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("coffer-trustee backup", flag.ContinueOnError)
	c := storeFlags(f)
	path, err := oneFile(f, c, args)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists", path)
	}
	// Under another name until it is whole.
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already if all went well
	_, err = server.Backup(ctx, *c, tmp)
	if errors.Is(err, server.ErrRunning) {
		err = fetchBackup(ctx, c.State, tmp)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = keyring.SyncDir(filepath.Dir(path))
	}
	return err
}

// fetchBackup has the trustee that runs on a state folder write the backup, as
// the folder's administrator.
func fetchBackup(ctx context.Context, state string, w *os.File) error {
	var at trusteeapi.ClientConfig
	b, err := os.ReadFile(filepath.Join(state, "client.json"))
	if err == nil {
		err = json.Unmarshal(b, &at)
	}
	if err != nil {
		return fmt.Errorf("asking the running trustee: %w", err)
	}
	key, err := readKey(at.AdminKeyPath)
	if err != nil {
		return fmt.Errorf("asking the running trustee: %w", err)
	}
	const path = trusteeapi.PathPrefix + "/backup"
	token, err := trusteeapi.SignToken(key, http.MethodPost, path, time.Now())
	if err != nil {
		return fmt.Errorf("asking the running trustee: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(at.CAPEM))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.URL+path, nil)
	if err != nil {
		return fmt.Errorf("asking the running trustee: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("asking the running trustee: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("asking the running trustee: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("asking the running trustee: %w", err)
	}
	return nil
}

func readKey(path string) (crypto.Signer, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s is no key that signs", path)
	}
	return s, nil
}

// restore fills an empty store.
func restore(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("coffer-trustee restore", flag.ContinueOnError)
	c := storeFlags(f)
	path, err := oneFile(f, c, args)
	if err != nil {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := server.Restore(ctx, *c, in)
	if err != nil {
		return err
	}
	fmt.Printf("restored %d entries\n", n)
	return nil
}
