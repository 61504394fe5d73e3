// An authorization server for tests: oidc-provider with the configuration that the file in the first argument names. Client credentials,
// client authentication, revocation and introspection are oidc-provider's own; it has no token exchange, so that grant (RFC 8693) is the
// few lines below: the subject token is checked, the token that is given is one of oidc-provider's.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createLocalJWKSet, jwtVerify } from 'jose';
import { Provider, errors } from 'oidc-provider';

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const { port, cert, key, clients, scopes, seconds, host } = JSON.parse(readFileSync(process.argv[2]));
const issuer = `https://localhost:${port}`;

// Of tokens by exchange: what the subject token said.
const subjects = new WeakMap();

const provider = new Provider(issuer, {
  clients,
  scopes,
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
  enabledJWA: { clientAuthSigningAlgValues: ['ES256', 'EdDSA'] },
  ttl: { ClientCredentials: (ctx, token, client) => seconds[client.clientId] ?? 3600 },
  extraTokenClaims: (ctx, token) => subjects.get(token),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: (ctx, client, token) => token.clientId === client.clientId },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource, client) => {
        if (!resource.endsWith('.example.com/')) throw new errors.InvalidTarget();
        return { scope: scopes.join(' '), accessTokenFormat: 'opaque', accessTokenTTL: seconds[client.clientId] ?? 3600 };
      },
    },
  },
});

const exchange = async (ctx, next) => {
  const { client, params } = ctx.oidc;
  let subject;
  try {
    const keys = createLocalJWKSet(host.jwks);
    ({ payload: subject } = await jwtVerify(params.subject_token, keys, { issuer: host.issuer, audience: issuer, maxTokenAge: '2m' }));
  } catch (error) {
    throw new errors.InvalidRequest(`subject_token: ${error.code}`);
  }
  const allowed = new Set(client.scope.split(' '));
  const scope = params.scope.split(' ').filter((one) => allowed.has(one)).join(' ');
  const token = new provider.ClientCredentials({ client, scope });
  subjects.set(token, { sub: subject.sub, claviger: subject.claviger });
  if (params.audience) token.aud = params.audience;
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: ACCESS_TOKEN,
    token_type: token.tokenType,
    expires_in: token.expiration,
    scope,
  };
  await next();
};
provider.registerGrantType(EXCHANGE, exchange, ['audience', 'resource', 'scope', 'requested_token_type', 'subject_token', 'subject_token_type']);

// Tokens that live, for whoever counts.
const alive = new Set();
provider.on('client_credentials.saved', (token) => alive.add(token.jti));
provider.on('client_credentials.destroyed', (token) => alive.delete(token.jti));
const serve = provider.callback();
const answer = (request, response) => (request.url === '/alive' ? response.end(JSON.stringify([...alive])) : serve(request, response));
createServer({ cert, key }, answer).listen(port, '127.0.0.1');
