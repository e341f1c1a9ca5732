// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"context"
	"fmt"
	"strings"

	"github.com/conclave-mls/conclave/core/client"
)

// A command is what a request can ask for: of the engine, or of an instance.
type command struct {
	name     string
	takes    string // its arguments, beside inst; those with a question mark may be absent
	gives    string // its result
	engine   func(context.Context, *engine, *request) (result, error)
	instance func(context.Context, *instance, *request) (result, error)
}

// commands are all there are.
var commands = []command{
	{name: "version", gives: "version, build", engine: version},
	{name: "log", takes: "level? (Debug)", engine: setLevel},
	{name: "init", takes: "clientId? (random), ciphersuites? ([1]), db? (path), dbKey? (zeros), mls? (true), proteus? (false)", gives: "clientId?, db?, fingerprint?", engine: initialize},
	{name: "close", engine: closeInstance},
	{name: "addCredential", takes: "ciphersuite", gives: "publicKeyHash", instance: addCredential},
	{name: "credentials", gives: "credentials[]", instance: listCredentials},
	{name: "keypackages", takes: "n? (1), ciphersuite?, lifetime? (seconds)", gives: "keyPackages[], refs[]", instance: keyPackages},
	{name: "keypackageRefs", gives: "refs[]", instance: keyPackageRefs},
	{name: "parseKeyPackage", takes: "keyPackage", gives: "keyPackage, hashRef, ciphersuite, valid", instance: parseKeyPackage},
	{name: "createConversation", takes: "conversation, ciphersuite?, externalSender? (JWK or key)", instance: createConversation},
	{name: "externalSender", takes: "conversation", gives: "key", instance: externalSender},
	{name: "addMembers", takes: "conversation, keyPackages[], transport?", gives: "bundle", instance: addMembers},
	{name: "removeMembers", takes: "conversation, clientIds[], transport?", gives: "bundle, historySecrets[]?", instance: removeMembers},
	{name: "updateKeys", takes: "conversation, transport?", gives: "bundle", instance: updateKeys},
	{name: "commitPending", takes: "conversation, transport?", gives: "bundle?", instance: commitPending},
	{name: "joinByExternalCommit", takes: "groupInfo, ciphersuite?, transport?", gives: "conversation, bundle", instance: joinByExternalCommit},
	{name: "processWelcome", takes: "welcome", gives: "conversation", instance: processWelcome},
	{name: "decrypt", takes: "conversation, message, rollback?, transport?", gives: "message", instance: decrypt},
	{name: "decryptMany", takes: "conversation, messages[], transport?", gives: "messages[]", instance: decryptMany},
	{name: "encrypt", takes: "conversation, plaintext", gives: "message", instance: encrypt},
	{name: "encryptMany", takes: "conversation, plaintexts[]", gives: "messages[]", instance: encryptMany},
	{name: "exportSecret", takes: "conversation, length? (32)", gives: "secret", instance: exportSecret},
	{name: "epoch", takes: "conversation", gives: "epoch", instance: epoch},
	{name: "members", takes: "conversation", gives: "members[]", instance: members},
	{name: "ciphersuite", takes: "conversation", gives: "ciphersuite", instance: ciphersuite},
	{name: "exists", takes: "conversation", gives: "exists", instance: exists},
	{name: "identities", takes: "conversation, clientIds[]", gives: "identities[]", instance: identities},
	{name: "enableHistorySharing", takes: "conversation, transport?", gives: "bundle?, historySecrets[]?", instance: enableHistorySharing},
	{name: "disableHistorySharing", takes: "conversation, transport?", gives: "bundle?", instance: disableHistorySharing},
	{name: "historySharing", takes: "conversation", gives: "enabled", instance: historySharing},
	{name: "wipe", takes: "conversation", instance: wipe},
	{name: "proteusInit", gives: "fingerprint", instance: proteusInit},
	{name: "proteusPrekey", takes: "prekeyId? (1), n? (1)", gives: "prekey, prekeys[]", instance: proteusPrekey},
	{name: "proteusPrekeyAuto", gives: "prekeyId, prekey", instance: proteusPrekeyAuto},
	{name: "proteusLastResortPrekey", gives: "prekeyId, prekey", instance: proteusLastResortPrekey},
	{name: "proteusSessionFromPrekey", takes: "session, prekey", instance: proteusSessionFromPrekey},
	{name: "proteusSessionFromMessage", takes: "session, message", gives: "plaintext", instance: readProteus(client.Proteus.SessionFromMessage)},
	{name: "proteusEncrypt", takes: "session, plaintext", gives: "message", instance: proteusEncrypt},
	{name: "proteusEncryptBatched", takes: "sessions[], plaintext", gives: "messages{}", instance: proteusEncryptBatched},
	{name: "proteusDecrypt", takes: "session, message", gives: "plaintext", instance: readProteus(client.Proteus.Decrypt)},
	{name: "proteusDecryptSafe", takes: "session, message", gives: "plaintext", instance: readProteus(client.Proteus.DecryptSafe)},
	{name: "proteusFingerprint", takes: "session?", gives: "fingerprint, local?, remote?", instance: proteusFingerprint},
	{name: "proteusSessionExists", takes: "session", gives: "exists", instance: proteusSessionExists},
	{name: "proteusSessionDelete", takes: "session", instance: proteusSessionDelete},
	{name: "proteusSessionSave", takes: "session", instance: proteusSessionSave},
	{name: "events", gives: "events[]", instance: events},
	{name: "random", takes: "n", gives: "bytes", instance: random},
	{name: "setData", takes: "data", instance: setData},
	{name: "getData", gives: "data?", instance: getData},
	{name: "updateDatabaseKey", takes: "dbKey", instance: updateDatabaseKey},
	{name: "dbSize", gives: "db, db-wal, ...", instance: dbSize},
}

var byName = func() map[string]*command {
	m := map[string]*command{}
	for i := range commands {
		m[commands[i].name] = &commands[i]
	}
	return m
}()

// Table lists the commands: a line for each with its name, its arguments and, behind
// an arrow, its result.
func Table() string {
	var b strings.Builder
	for _, c := range commands {
		line := fmt.Sprintf("%-25s  %s", c.name, c.takes)
		if c.gives != "" {
			line = strings.TrimRight(line, " ") + "  -> " + c.gives
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}
