// SPDX-License-Identifier: Apache-2.0

/* A PKCS#11 module that is another one, but for C_Sign: if there is a file $CRASH it
   removes that, and signs in one session by many threads at once, which the standard
   forbids: until the module behind it brings the process down. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include "pkcs11go.h"

static CK_FUNCTION_LIST list, *real;
static CK_MECHANISM_TYPE mechanism;
static CK_OBJECT_HANDLE key;

static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k) {
	mechanism = m->mechanism;
	key = k;
	return real->C_SignInit(session, m, k);
}

static void *race(void *session) {
	for (;;) {
		CK_MECHANISM m = {mechanism, NULL_PTR, 0};
		CK_BYTE data[32] = {0}, out[256];
		CK_ULONG n = sizeof out;
		real->C_SignInit((CK_SESSION_HANDLE)session, &m, key);
		real->C_Sign((CK_SESSION_HANDLE)session, data, sizeof data, out, &n);
	}
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG len, CK_BYTE_PTR out, CK_ULONG_PTR n) {
	const char *file = getenv("CRASH");
	if (file && unlink(file) == 0) {
		pthread_t thread;
		for (int i = 0; i < 16; i++)
			pthread_create(&thread, NULL, race, (void *)session);
		race((void *)session);
	}
	return real->C_Sign(session, data, len, out, n);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out) {
	void *module = dlopen(getenv("CRASHING_MODULE"), RTLD_NOW | RTLD_LOCAL);
	CK_C_GetFunctionList get = module ? (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList") : NULL;
	CK_RV rv = get ? get(&real) : CKR_GENERAL_ERROR;
	if (rv != CKR_OK)
		return rv;
	list = *real;
	list.C_SignInit = sign_init;
	list.C_Sign = sign;
	*out = &list;
	return CKR_OK;
}
