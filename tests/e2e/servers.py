"""Configurations of servers that several tests start."""

NGINX = """
daemon off; master_process on; worker_processes 2; pid {dir}/nginx.pid; error_log stderr;
events {{ worker_connections 512; }}
http {{
    access_log off; sendfile on; root {dir}; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
    fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; server {{ listen 127.0.0.1:{port}; }}
}}
"""

HAPROXY = """
global
  {settings}
defaults
  mode http
  timeout connect 5s
  timeout client 10s
  timeout server 10s
frontend front
  bind 127.0.0.1:{port}
  http-request return status 200 content-type text/plain string "{name}"
"""
