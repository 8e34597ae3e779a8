{{- define "fingerpost.labels" -}}
app.kubernetes.io/name: fingerpost
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "fingerpost.meta" -}}
name: {{ .root.Release.Name }}-{{ .part }}
namespace: {{ .namespace | default .root.Release.Namespace }}
labels:
  {{- include "fingerpost.labels" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{- define "fingerpost.image" -}}
image: {{ .root.Values.image.repository }}-{{ .image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{- define "fingerpost.pod-security" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 1034
  runAsGroup: 1034
  fsGroup: 1034
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "fingerpost.container-security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "fingerpost.secret" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .root.Values.secret }}, key: {{ .key }}}}
{{- end }}

{{- define "fingerpost.engine-token" -}}
{{- if .root.Values.tokens }}
- {name: FINGERPOST_ENGINE_{{ ternary "ROLES" "TOKEN" (eq .role "roles") }}_FILE, value: /etc/fingerpost/tokens/{{ .role }}}
{{- else }}
{{- include "fingerpost.secret" (dict "root" .root "name" "FINGERPOST_ENGINE_TOKEN" "key" "engine-token") }}
{{- end }}
{{- end }}

{{- define "fingerpost.tokens-mount" -}}
{{- if .Values.tokens }}
- {name: tokens, mountPath: /etc/fingerpost/tokens, readOnly: true}
{{- end }}
{{- end }}

{{- define "fingerpost.tokens-volume" -}}
{{- if .root.Values.tokens }}
- name: tokens
  secret: {secretName: {{ .root.Values.tokens }}, defaultMode: 0440, items: [{key: {{ .role }}, path: {{ .role }}}]}
{{- end }}
{{- end }}

{{- define "fingerpost.env" -}}
{{- range $name, $value := . }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "fingerpost.lake-claim" -}}
{{ .Values.lake.claim | default (printf "%s-lake" .Release.Name) }}
{{- end }}

{{- define "fingerpost.lake-env" -}}
{{- if .Values.lake.url }}
- {name: FINGERPOST_LAKE_URL, value: {{ .Values.lake.url | quote }}}
{{- else }}
- {name: FINGERPOST_LAKE, value: /var/lib/fingerpost-lake}
{{- end }}
{{- end }}

{{- define "fingerpost.lake-secret" -}}
{{- if and .Values.lake.url .Values.lake.secret }}
envFrom: [{secretRef: {name: {{ .Values.lake.secret }}}}]
{{- end }}
{{- end }}
