package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// fakeTEE is a TEE with behaviour: evidence is a statement under the MAC of a
// hardware key, which covers report data and the digest of initdata.
const fakeTEE = "faketee"

var hardwareKey = []byte("the fake hardware's key")

type fakeEvidence struct {
	ReportData string `json:"report_data"` // hex
	Initdata   string `json:"initdata"`    // hex SHA-256
	Simulated  bool   `json:"simulated"`
	Debug      bool   `json:"debug"`
	Hardware   int8   `json:"hardware"`
	Unproven   int    `json:"unproven"` // how much of it there is
	MAC        string `json:"mac"`
}

func (e *fakeEvidence) sign() {
	e.MAC = ""
	b, _ := json.Marshal(e)
	h := hmac.New(sha256.New, hardwareKey)
	h.Write(b)
	e.MAC = hex.EncodeToString(h.Sum(nil))
}
