package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// TestTrusteeInATEE runs the commands of docs/trustee/in-a-tee.md: a trustee in a TEE
// of its own, with its keys from a first trustee and its state in a database that is
// reached over TLS.
func TestTrusteeInATEE(t *testing.T) {
	full(t)
	e := shared
	home := e.newHome(t)
	pg := pgtest.Start(t)
	port := strconv.Itoa(freePort(t))
	const password = "of the database"
	databaseOverTLS(t, pg, home, port, password)
	write(t, home, "pgpass", fmt.Sprintf("10.0.2.2:%s:coffer:coffer:%s\n", port, password))
	pushTrustee(t, e, filepath.Join(home, "image"))
	b, err := os.ReadFile(e.registries)
	if err != nil {
		t.Fatal(err)
	}
	write(t, home, "registries.conf", string(b))
	doc, err := os.ReadFile("../../docs/trustee/in-a-tee.md")
	if err != nil {
		t.Fatal(err)
	}
	published := strconv.Itoa(freePort(t))
	var scripts []string
	for i, s := range strings.Split(string(doc), "\n```") {
		if s, ok := strings.CutPrefix(s, "sh\n"); ok && i%2 == 1 {
			scripts = append(scripts, strings.NewReplacer("database.example:5432", "10.0.2.2:"+port, "8443:8443", published+":8443", "127.0.0.1:8443", "127.0.0.1:"+published).Replace(s))
		}
	}
	if len(scripts) != 5 {
		t.Fatalf("%d snippets: the search is broken", len(scripts))
	}
	// One shell for all, as who reads the page has.
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-euxo", "pipefail", "-c", strings.Join(scripts, "\n"))
	c.Dir = home
	c.Env = append(e.command(home).Env, "PATH="+e.bin+":"+os.Getenv("PATH"))
	log, err := os.Create(filepath.Join(home, "shell.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	t.Cleanup(func() { _, _, _ = e.coffer(t, home, "stop", "trustee", "--now") })
	err = c.Run()
	out, _ := os.ReadFile(log.Name())
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if n := bytes.Count(out, []byte("chain whole")); n != 2 {
		t.Errorf("%d audit logs of two starts:\n%s", n, out)
	}
	// What the host has of it: no secret, and no private key.
	if found := pg.SQL("coffer", `SELECT count(*) FROM coffer.kv WHERE position('hunter2'::bytea IN value) > 0 OR position('PRIVATE KEY'::bytea IN value) > 0`); found != "0" {
		t.Errorf("%s values of the database hold a secret in the clear", found)
	}
	if bytes.Contains(out, []byte(password)) {
		t.Error("the shell shows the database's password")
	}
}

// pushTrustee builds the trustee's image and puts it where the pod's image comes from.
func pushTrustee(t *testing.T, e *env, dir string) {
	t.Helper()
	build := exec.Command("go", "run", "./test/programimage", "--program", "coffer-trustee", "--name", "registry.example/coffer/trustee:latest", "--out", dir)
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the image: %v: %s", err, out)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("the layout: %+v, %v", m, err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(e.mirror+"/registry.example/coffer/trustee:latest", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

// databaseOverTLS has a database listen as one on another machine does: TLS only, with
// a password. Its certificate is for the address by which the guest knows the host.
func databaseOverTLS(t *testing.T, pg *pgtest.Server, home, port, password string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "database"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(10, 0, 2, 2)}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, home, "database-ca.pem", cert)
	pg.SQL("postgres", "ALTER USER coffer PASSWORD '"+password+"'")
	pg.Database("coffer")
	pg.ListenTLS("127.0.0.1", port, cert, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}
