package fakecloud

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"hash/crc32"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/alibaba"
)

// GCP is Secret Manager of the project p, its token endpoint at /token, and the metadata
// service of a machine.
type GCP struct {
	*Cloud
	key *rsa.PrivateKey
}

// StartGCP starts one.
func StartGCP(t testing.TB) *GCP {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	f := &GCP{key: key}
	f.Cloud = start(t, f.serve)
	return f
}

// KeyFile writes the key file of the service account.
func (f *GCP) KeyFile(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(f.key)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(doc{"type": "service_account", "client_email": "coffer@p.example", "private_key_id": "k1", "private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
	return File(t, "account.json", string(b))
}

func (f *GCP) assertion(text string) bool {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	payload, perr := base64.RawURLEncoding.DecodeString(parts[1])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	var c struct {
		Iss, Aud, Scope string
		Iat, Exp        int64
	}
	return err == nil && perr == nil && rsa.VerifyPKCS1v15(&f.key.PublicKey, crypto.SHA256, sum[:], sig) == nil && json.Unmarshal(payload, &c) == nil &&
		c.Iss == "coffer@p.example" && c.Aud == f.URL+"/token" && strings.HasSuffix(c.Scope, "/cloud-platform") && c.Exp > f.Now().Unix() && c.Exp-c.Iat <= 3600
}

func (f *GCP) serve(w http.ResponseWriter, r *http.Request) {
	token := func() {
		give(w, 200, doc{"access_token": f.issue(time.Hour), "token_type": "Bearer", "expires_in": 3600})
	}
	refuse := func(status int, kind string) {
		give(w, status, doc{"error": doc{"code": status, "status": kind, "message": "about " + kind}})
	}
	switch {
	case r.URL.Path == "/token":
		if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || !f.assertion(r.FormValue("assertion")) {
			give(w, 400, doc{"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
			return
		}
		token()
		return
	case r.URL.Path == "/computeMetadata/v1/instance/service-accounts/default/token":
		if r.Header.Get("Metadata-Flavor") != "Google" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		token()
		return
	case !f.bearer(r):
		refuse(401, "UNAUTHENTICATED")
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1/projects/p/secrets/")
	rest, access := strings.CutSuffix(rest, ":access")
	name, id, found := strings.Cut(rest, "/versions/")
	if !ok || !access || !found || r.Method != http.MethodGet {
		refuse(403, "PERMISSION_DENIED")
		return
	}
	if id == "latest" {
		id = ""
	}
	v := f.find(name, id)
	switch {
	case v == nil:
		refuse(404, "NOT_FOUND")
	case v.Disabled:
		refuse(400, "FAILED_PRECONDITION")
	default:
		sum := strconv.FormatUint(uint64(crc32.Checksum(v.Value, crc32.MakeTable(crc32.Castagnoli))), 10)
		give(w, 200, doc{"name": "projects/123456/secrets/" + name + "/versions/" + v.ID, "payload": doc{"data": v.Value, "dataCrc32c": sum}})
	}
}

// Azure is one vault, the authority of the tenant, and the metadata service of a machine.
type Azure struct {
	*Cloud
	Tenant, Client, Secret string
}

// StartAzure starts one.
func StartAzure(t testing.TB) *Azure {
	f := &Azure{Tenant: "11111111-2222-3333-4444-555555555555", Client: "99999999-8888-7777-6666-555555555555", Secret: "s~" + rand.Text()}
	f.Cloud = start(t, f.serve)
	return f
}

func (f *Azure) serve(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code, inner string) {
		give(w, status, doc{"error": doc{"code": code, "message": "about " + code, "innererror": doc{"code": inner}}})
	}
	q := r.URL.Query()
	switch r.URL.Path {
	case "/" + f.Tenant + "/oauth2/v2.0/token":
		if r.FormValue("grant_type") != "client_credentials" || r.FormValue("client_id") != f.Client || r.FormValue("client_secret") != f.Secret || r.FormValue("scope") != "https://vault.azure.net/.default" {
			give(w, 401, doc{"error": "invalid_client", "error_description": "AADSTS7000215"})
			return
		}
		give(w, 200, doc{"access_token": f.issue(time.Hour), "token_type": "Bearer", "expires_in": 3599})
		return
	case "/metadata/identity/oauth2/token":
		if r.Header.Get("Metadata") != "true" || q.Get("resource") != "https://vault.azure.net" || q.Get("api-version") == "" {
			give(w, 400, doc{"error": "invalid_request"})
			return
		}
		give(w, 200, doc{"access_token": f.issue(time.Hour), "token_type": "Bearer", "expires_in": "3599", "resource": q.Get("resource")})
		return
	}
	name, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/secrets/"), "/")
	v := f.find(name, id)
	switch {
	case !f.bearer(r):
		refuse(401, "Unauthorized", "")
	case q.Get("api-version") != "7.4":
		refuse(400, "BadParameter", "")
	case v == nil:
		refuse(404, "SecretNotFound", "")
	case v.Disabled:
		refuse(403, "Forbidden", "SecretDisabled")
	default:
		at := doc{"enabled": true, "recoveryLevel": "Recoverable"}
		if !v.Expires.IsZero() {
			at["exp"] = v.Expires.Unix()
		}
		give(w, 200, doc{"value": string(v.Value), "id": "https://v.vault.azure.net/secrets/" + name + "/" + v.ID, "attributes": at})
	}
}

// Aliyun is the Key Management Service of Alibaba Cloud.
type Aliyun struct {
	*Cloud
	ID, Secret string
	nonces     map[string]bool
}

// StartAliyun starts one.
func StartAliyun(t testing.TB) *Aliyun {
	f := &Aliyun{ID: "LTAI" + rand.Text(), Secret: rand.Text(), nonces: map[string]bool{}}
	f.Cloud = start(t, f.serve)
	return f
}

func (f *Aliyun) serve(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code string) {
		give(w, status, doc{"Code": code, "Message": "about " + code, "RequestId": rand.Text()})
	}
	at, err := time.Parse("2006-01-02T15:04:05Z", r.Header.Get("x-acs-date"))
	again, rerr := http.NewRequestWithContext(r.Context(), r.Method, f.URL+"/?"+r.URL.RawQuery, bytes.NewReader(nil))
	nonce := r.Header.Get("x-acs-signature-nonce")
	if err != nil || rerr != nil || f.Now().Sub(at).Abs() > 15*time.Minute || nonce == "" || f.nonces[nonce] {
		refuse(400, "SignatureNonceUsed")
		return
	}
	f.nonces[nonce] = true
	alibaba.Sign(again, nil, f.ID, f.Secret, "GetSecretValue", "2016-01-20", nonce, at)
	if again.Header.Get("Authorization") != r.Header.Get("Authorization") {
		refuse(400, "SignatureDoesNotMatch")
		return
	}
	name := r.URL.Query().Get("SecretName")
	v := f.find(name, r.URL.Query().Get("VersionId"))
	switch {
	case v == nil:
		refuse(404, "Forbidden.ResourceNotFound")
	case v.Disabled:
		refuse(400, "Rejected.SecretInPendingDelete")
	default:
		data, kind := string(v.Value), "text"
		if v.Binary {
			data, kind = base64.StdEncoding.EncodeToString(v.Value), "binary"
		}
		give(w, 200, doc{"SecretName": name, "VersionId": v.ID, "SecretData": data, "SecretDataType": kind, "VersionStages": doc{"VersionStage": []string{"ACSCurrent"}}, "RequestId": rand.Text()})
	}
}
